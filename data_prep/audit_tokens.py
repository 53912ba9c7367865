"""Visual tokens and prompt lengths under given pixel limits, from image headers alone."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen_vl_utils.vision_process import smart_resize
from rich.progress import track

from data_prep.audit_figures import distribution
from data_prep.audit_reading import Entry, Picture
from vlm_rl.data.prompts import PromptEncoder

PROMPT_LIMITS = (2048, 4096)

_MIN_PIXELS = 56 * 56
_MAX_PIXELS = 12845056
"""Limits of Qwen2.5-VL's image processor; from memory, not confirmed."""


@dataclass(frozen=True)
class Sizing:
    """How large pictures become: sides are multiples of `factor` pixels, a visual token each, with
    an area between the limits. `encoder` counts the text too, where a checkpoint is given."""

    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    encoder: PromptEncoder | None

    @property
    def factor(self) -> int:
        return self.patch_size * self.merge_size

    @property
    def assumption(self) -> str:
        """Where patch and merge size come from, in a sentence."""
        if self.encoder is None:
            return (
                "No checkpoint was given: patch 14 and merge 2 of Qwen2.5-VL are assumed, one "
                "visual token per 28 x 28 pixels, and text is not counted."
            )
        return (
            f"Sizes of the checkpoint: patch {self.patch_size}, merge {self.merge_size}, one "
            f"visual token per {self.factor} x {self.factor} pixels. Prompts are counted with its "
            "tokenizer and chat template, without an instruction."
        )

    def visual_tokens(self, picture: Picture) -> int | None:
        """None for a picture that is too narrow to be resized."""
        limits = (self.factor, self.min_pixels, self.max_pixels)
        return _visual_tokens(picture.width, picture.height, *limits)


def sizing_of(model: str | None, min_pixels: int | None, max_pixels: int | None) -> Sizing:
    """The sizes of a checkpoint, or those of Qwen2.5-VL. Raises ValueError for a checkpoint that
    can not be read and for limits that cross or are below 1."""
    for name, value in {"min_pixels": min_pixels, "max_pixels": max_pixels}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be above 0, an area in pixels, got {value}")
    if model is not None:
        encoder = PromptEncoder(model, min_pixels=min_pixels, max_pixels=max_pixels)
        sizes = encoder.patch_size, encoder.merge_size
        return Sizing(*sizes, encoder.min_pixels, encoder.max_pixels, encoder)
    least = _MIN_PIXELS if min_pixels is None else min_pixels
    most = _MAX_PIXELS if max_pixels is None else max_pixels
    if least > most:
        raise ValueError(f"min_pixels={least} is above max_pixels={most}; give both, as areas")
    return Sizing(14, 2, least, most, None)


def token_figures(entries: Sequence[Entry], sizing: Sizing) -> dict[str, Any]:
    """Visual tokens by image and by problem, prompt lengths with a checkpoint, and how many are
    above the `PROMPT_LIMITS`; pictures that can not be resized are named and not counted."""
    pictures = {p.digest: p for entry in entries for p in entry.pictures}
    by_image = {digest: sizing.visual_tokens(picture) for digest, picture in pictures.items()}
    narrow = [e for e in entries if any(by_image[p.digest] is None for p in e.pictures)]
    good = [e for e in entries if all(by_image[p.digest] is not None for p in e.pictures)]
    visual = [sum(by_image[p.digest] or 0 for p in e.pictures) for e in good if e.pictures]
    prompts = None
    if sizing.encoder is not None:
        shown = track(good, "prompt lengths", transient=True)
        prompts = [sizing.encoder.count_tokens(entry.problem) for entry in shown]
    counted = visual if prompts is None else prompts
    areas = [picture.width * picture.height for picture in pictures.values()]
    return {
        "assumption": sizing.assumption,
        "patch_size": sizing.patch_size,
        "merge_size": sizing.merge_size,
        "min_pixels": sizing.min_pixels,
        "max_pixels": sizing.max_pixels,
        "visual_by_image": distribution([n for n in by_image.values() if n is not None]),
        "visual_by_problem": distribution(visual),
        "prompt": None if prompts is None else distribution(prompts),
        "above": {limit: sum(n > limit for n in counted) for limit in PROMPT_LIMITS},
        "above_counts": "visual tokens" if prompts is None else "prompt tokens",
        "enlarged_images": sum(area < sizing.min_pixels for area in areas),
        "reduced_images": sum(area > sizing.max_pixels for area in areas),
        "too_narrow": [_narrow(entry, by_image) for entry in narrow],
    }


def _narrow(entry: Entry, by_image: dict[str, int | None]) -> dict[str, str]:
    sizes = [f"{p.width} x {p.height}" for p in entry.pictures if by_image[p.digest] is None]
    return {"uid": entry.problem.uid, "pixels": ", ".join(sizes)}


@functools.lru_cache(maxsize=4096)
def _visual_tokens(width: int, height: int, factor: int, least: int, most: int) -> int | None:
    try:
        new_height, new_width = smart_resize(height, width, factor, least, most)
    except ValueError:  # an aspect ratio above 200
        return None
    return (int(new_height) // factor) * (int(new_width) // factor) or None
