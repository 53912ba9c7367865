"""What coordinates in an image count, and one in terms of another.

A model may answer in other coordinates than its golds are in: Qwen2.5-VL in pixels of the resized
image (`resized`), Qwen2-VL and Qwen3-VL in thousandths (`relative_1000`), and data sets in pixels
of the files (`original`).
"""

from collections.abc import Sequence

from vlm_rl.records import BoxSpace, ImageSizes
from vlm_rl.verification.places import Place


def converted(
    places: Sequence[Place], source: BoxSpace, target: BoxSpace, sizes: ImageSizes | None
) -> tuple[Place, ...]:
    """Return boxes or points in another space. Only pixels need the `sizes` of their image."""
    whole, new = _whole(source, sizes), _whole(target, sizes)
    return tuple(
        tuple(value / whole[i % 2] * new[i % 2] for i, value in enumerate(place))
        for place in places
    )


def in_pixels(space: BoxSpace) -> bool:
    """Whether coordinates mean something only beside the size of an image."""
    return space in ("original", "resized")


def _whole(space: BoxSpace, sizes: ImageSizes | None) -> tuple[float, float]:
    """Return the coordinates of the lower right corner of the image."""
    if not in_pixels(space):
        return (1.0, 1.0) if space == "relative_1" else (1000.0, 1000.0)
    assert sizes is not None, "pixels need the size of the image"
    return sizes.original if space == "original" else sizes.resized
