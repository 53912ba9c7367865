"""Logits of all rows over one tile of the vocabulary after another, in memory that is used again.

A tile stays in the processor's cache, so that passes over it cost next to nothing beside the
matrix products. It has every row, so that its part of the weight's gradient is one product.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

TILE_ELEMENTS = {"cpu": 1 << 21}
"""Logits in a tile by type of device: 8 MiB in float32 on a CPU."""

MANY_ELEMENTS = 1 << 25
"""Logits in a tile elsewhere, where a product must be large to fill the device: 128 MiB."""

MIN_TILE_IDS = 512
"""Ids in a tile for however many rows; narrower products are slow."""

NEVER = -1e30
"""Added to a banned logit. It is finite, so that p * log p is 0 and not NaN."""


class Tile(NamedTuple):
    """Some `ids` of the vocabulary: `weight` [n, H] as the product takes it, scaled `logits` [N, n]
    in a buffer that the next tile overwrites, `column` [N, 1] of the targets that are `inside`.
    """

    ids: slice
    weight: Tensor
    logits: Tensor
    column: Tensor
    inside: Tensor


class Head(NamedTuple):
    """What the logits hidden @ weight.T / temperature are made of, `tile_ids` of them at a time.

    `hidden` [N, H] has the precision of the product. The logits have that of `sums`: float64 for
    float64, otherwise float32.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    banned: Tensor
    temperature: float
    tile_ids: int

    @property
    def sums(self) -> torch.dtype:
        return torch.float64 if self.hidden.dtype == torch.float64 else torch.float32

    def buffer(self) -> "Buffer":
        """Return room for one tile in the precision of the sums."""
        return Buffer(self.hidden.new_empty(len(self.hidden), dtype=self.sums), self.tile_ids)

    def tiles(self) -> Iterator[Tile]:
        """Compute each tile's logits, those of banned ids `NEVER`."""
        shift = torch.zeros(len(self.weight), dtype=self.sums, device=self.hidden.device)
        shift.index_fill_(0, self.banned, NEVER)
        buffer = self.buffer()
        for start in range(0, len(self.weight), self.tile_ids):
            ids = slice(start, start + self.tile_ids)
            weight = self.weight[ids].to(self.hidden.dtype)
            logits = buffer.columns(len(weight))
            if self.hidden.dtype == self.sums:
                alpha = 1 / self.temperature
                torch.addmm(shift[ids], self.hidden, weight.T, alpha=alpha, out=logits)
            else:
                logits.copy_(self.hidden @ weight.T).div_(self.temperature).add_(shift[ids])
            column = self.targets - start
            inside = (column >= 0) & (column < len(weight))
            column = column.clamp(0, len(weight) - 1)[:, None]
            yield Tile(ids, weight, logits, column, inside)


class Buffer:
    """Memory for [N, width], taken when first used; `like` [N] has its type and device."""

    def __init__(self, like: Tensor, width: int) -> None:
        self.like, self.width = like, width
        self.memory: Tensor | None = None

    def columns(self, count: int) -> Tensor:
        """Return it as [N, count], `count` at most `width`."""
        rows = len(self.like)
        if self.memory is None:
            self.memory = self.like.new_empty(rows * self.width)
        return self.memory[: rows * count].view(rows, count)


def default_tile_ids(num_rows: int, device: str) -> int:
    """Return how many ids a tile has for that many rows on that type of device."""
    elements = TILE_ELEMENTS.get(device, MANY_ELEMENTS)
    return max(MIN_TILE_IDS, elements // max(1, num_rows))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `total`, which may be of a higher precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def set_product(result: Tensor, left: Tensor, right: Tensor) -> None:
    """Write left @ right to `result`, which may be of another precision."""
    if result.dtype == left.dtype:
        torch.mm(left, right, out=result)
    else:
        result.copy_(left @ right)
