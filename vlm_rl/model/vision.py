"""What a frozen vision tower makes of images: computed once, read by every forward.

One image at a time, so that its features do not depend on the others, nor on what was kept: a
resumed run, which begins with nothing, gets the same bits.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.records import Prompt


class Images(NamedTuple):
    """Input of the vision tower: `pixel_values` [patches, patch_dim], `grid_thw` [images, 3]."""

    pixel_values: Tensor
    grid_thw: Tensor


class Features(NamedTuple):
    """Of one image: `tokens` [n, H] take the places of its placeholders; `deep`, each [n, H], are
    added in the first layers of a Qwen3-VL."""

    tokens: Tensor
    deep: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in (self.tokens, *self.deep))

    def to(self, device: torch.device) -> "Features":
        """Return the same features on `device`."""
        return Features(self.tokens.to(device), tuple(part.to(device) for part in self.deep))


def features_of(model: Any, images: Images) -> list[Features]:
    """Run the vision tower of a transformers Qwen-VL, and return the features of each image."""
    out = model.model.get_image_features(*images, return_dict=True)
    layers = getattr(out, "deepstack_features", None) or []
    deep = zip(*layers, strict=True) if layers else [()] * len(out.pooler_output)
    return [Features(tokens, parts) for tokens, parts in zip(out.pooler_output, deep, strict=True)]


Encode = Callable[[Images], list[Features]]


def images_of(prompt: Prompt) -> dict[bytes, Images]:
    """Return the images of a prompt by their content, each once."""
    if prompt.pixel_values is None or prompt.grid_thw is None:
        return {}
    pixels = prompt.pixel_values.split(prompt.grid_thw.prod(-1).tolist())
    images = map(Images, pixels, prompt.grid_thw.split(1))
    return dict(zip(prompt.image_keys, images, strict=True))


class KeptFeatures:
    """The features of a frozen tower by content of the image, in the memory of the CPU.

    Those of a step stay through it; of earlier ones, the last used, at most `max_bytes` in all.
    """

    def __init__(self, encode: Encode, filler: Images, max_bytes: int) -> None:
        self._encode = encode
        self._filler = filler
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Features] = OrderedDict()

    def prepare(self, prompts: Sequence[Prompt]) -> int:
        """Compute what is missing of these prompts; return how many images the tower saw.

        Every rank calls it, and runs the tower equally often: its weights may be sharded.
        """
        needed = {key: image for prompt in prompts for key, image in images_of(prompt).items()}
        missing = [key for key in needed if key not in self._kept]
        for turn in range(max(ranks.gather(len(missing)))):
            image = needed[missing[turn]] if turn < len(missing) else self._filler
            with torch.no_grad():
                (features,) = self._encode(image)
            if turn < len(missing):
                self._kept[missing[turn]] = features.to(torch.device("cpu"))
        for key in needed:
            self._kept.move_to_end(key)
        self._forget(len(needed))
        return len(missing)

    def _forget(self, needed: int) -> None:
        size = sum(features.num_bytes for features in self._kept.values())
        while size > self._max_bytes and len(self._kept) > needed:
            _, oldest = self._kept.popitem(last=False)
            size -= oldest.num_bytes

    def of(self, keys: Sequence[bytes]) -> list[Features]:
        """Return those of images that `prepare` has seen, in this order."""
        return [self._kept[key] for key in keys]
