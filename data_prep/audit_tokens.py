"""Visual tokens and prompt lengths under given pixel limits, from image headers alone."""

from collections.abc import Sequence
from typing import Any

from rich.progress import track

from data_prep.audit_reading import DataSet, ImageHeader
from data_prep.audit_statistics import distribution
from vlm_rl.data.images import BadImage, Resizer
from vlm_rl.data.prompts import PromptEncoder

PROMPT_LIMITS = (2048, 4096)

_MIN_PIXELS = 56 * 56
_MAX_PIXELS = 12845056
"""Limits of Qwen2.5-VL's image processor; from memory, not confirmed."""


def token_statistics(
    data: DataSet, model: str | None, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return visual tokens by image and by problem, prompt lengths with a checkpoint, and how many
    are above the `PROMPT_LIMITS`.

    Images that cannot be resized are named and not counted. Without the checkpoint `model` the
    sizes of Qwen2.5-VL are assumed. Raises ValueError for a checkpoint that cannot be read and for
    limits that cross or are below 1.
    """
    encoder = PromptEncoder(model, min_pixels=min_pixels, max_pixels=max_pixels) if model else None
    if encoder is None:
        least = _MIN_PIXELS if min_pixels is None else min_pixels
        most = _MAX_PIXELS if max_pixels is None else max_pixels
        resizer = Resizer(patch_size=14, merge_size=2, min_pixels=least, max_pixels=most)
    else:
        resizer = encoder.resizer
    by_image = {image.digest: _num_tokens(image, resizer) for image in data.images}
    narrow = [e for e in data.entries if not all(by_image[i.digest] for i in e.images)]
    good = [e for e in data.entries if all(by_image[i.digest] for i in e.images)]
    visual = [sum(by_image[i.digest] for i in e.images) for e in good if e.images]
    prompts: Sequence[int] = []
    if encoder is not None:
        shown = track(good, "prompt lengths", transient=True)
        prompts = [encoder.count_tokens(entry.problem) for entry in shown]
    counted = prompts if encoder else visual
    areas = [image.width * image.height for image in data.images]
    return {
        "assumption": _assumption(resizer, counts_text=encoder is not None),
        "patch_size": resizer.patch_size,
        "merge_size": resizer.merge_size,
        "min_pixels": resizer.min_pixels,
        "max_pixels": resizer.max_pixels,
        "visual_by_image": distribution([number for number in by_image.values() if number]),
        "visual_by_problem": distribution(visual),
        "prompt": distribution(prompts),
        "above": {limit: sum(n > limit for n in counted) for limit in PROMPT_LIMITS},
        "above_counts": "prompt tokens" if encoder else "visual tokens",
        "enlarged_images": sum(area < resizer.min_pixels for area in areas),
        "reduced_images": sum(area > resizer.max_pixels for area in areas),
        "too_narrow": [
            {
                "uid": entry.problem.uid,
                "pixels": ", ".join(
                    f"{i.width} x {i.height}" for i in entry.images if not by_image[i.digest]
                ),
            }
            for entry in narrow
        ],
    }


def _num_tokens(image: ImageHeader, resizer: Resizer) -> int:
    """Return the visual tokens of an image, 0 if it is too narrow to be resized."""
    try:
        return resizer.num_tokens(image.source)
    except BadImage:
        return 0


def _assumption(resizer: Resizer, *, counts_text: bool) -> str:
    """Say where patch and merge size come from."""
    if not counts_text:
        return (
            "No checkpoint was given: patch 14 and merge 2 of Qwen2.5-VL are assumed, one "
            "visual token per 28 x 28 pixels, and text is not counted."
        )
    side = resizer.patch_size * resizer.merge_size
    return (
        f"Sizes of the checkpoint: patch {resizer.patch_size}, merge {resizer.merge_size}, one "
        f"visual token per {side} x {side} pixels. Prompts are counted with its "
        "tokenizer and chat template, without an instruction."
    )
