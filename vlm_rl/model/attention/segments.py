"""Where the parts of a packed row lie: each prompt, and behind it its completions.

A completion attends to its own prompt and, causally, to itself. So there are two kinds of attention
between contiguous pieces and no mask: every piece to itself, and the completions of a group to
their prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

MOST_PADDING = 0.1
"""The largest share of padding of a piece that is computed beside a longer one."""


@dataclass(frozen=True)
class Group:
    """The tokens of a prompt, and those of each of its completions, at least 1."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the tokens of all."""
        return self.prompt + sum(self.completions)


class RowPlaces:
    """RowPlaces in the packed row, `index` [n] int64; those in a row are read without a copy."""

    def __init__(self, index: Tensor, device: torch.device) -> None:
        self.index = index.to(device)
        self._span: slice | None = None
        if len(index) and bool((index.diff() == 1).all()):
            self._span = slice(int(index[0]), int(index[-1]) + 1)

    def of(self, row: Tensor) -> Tensor:
        """Return the values of `row` [H, S, ...] at these places, [H, n, ...]."""
        return row.index_select(1, self.index) if self._span is None else row[:, self._span]

    def put(self, row: Tensor, values: Tensor) -> None:
        """Write `values` [H, n, ...] into `row` [H, S, ...]."""
        if self._span is None:
            row.index_copy_(1, self.index, values)
        else:
            row[:, self._span] = values

    def add(self, row: Tensor, values: Tensor) -> None:
        """Add `values` [H, n, ...] to `row` [H, S, ...]."""
        if self._span is None:
            row.index_add_(1, self.index, values)
        else:
            row[:, self._span] += values


class Bucket:
    """n pieces of nearly one length side by side, each padded to m by repeating its last place."""

    def __init__(self, starts: Tensor, lengths: Tensor, device: torch.device) -> None:
        steps = torch.arange(int(lengths.max()))
        is_real = steps < lengths[:, None]
        places = starts[:, None] + steps.minimum(lengths[:, None] - 1)
        self.shape = places.shape
        self._all = RowPlaces(places.flatten(), device)
        self._real = RowPlaces(places[is_real], device)
        self._is_real = None if bool(is_real.all()) else is_real.to(device)

    def of(self, row: Tensor) -> Tensor:
        """Return [n, H, m, ...] of `row` [H, S, ...]."""
        beside: Tensor = self._all.of(row).unflatten(1, self.shape).transpose(0, 1)
        return beside

    def put(self, row: Tensor, values: Tensor) -> None:
        """Write `values` [n, H, m, ...] into `row` [H, S, ...], without what is padding."""
        values = values.transpose(0, 1)
        is_real = self._is_real
        self._real.put(row, values.flatten(1, 2) if is_real is None else values[:, is_real])

    def without_padding(self, gradient: Tensor) -> Tensor:
        """Return `gradient` [n, H, m, D] with zeros in the padding."""
        if self._is_real is None:
            return gradient
        return gradient * self._is_real[:, None, :, None]


def side_by_side(lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of pieces of these `lengths`, longest first, in parts of nearly one
    length."""
    parts: list[list[int]] = []
    least = float("inf")
    for piece in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if lengths[piece] < least:
            parts.append([])
            least = (1 - MOST_PADDING) * lengths[piece]
        parts[-1].append(piece)
    return parts


def padding_of(groups: Sequence[Group]) -> int:
    """Return the padding, in tokens, of all pieces of `groups` laid side by side in buckets."""
    lengths = [n for group in groups for n in (group.prompt, *group.completions)]
    parts = [[lengths[piece] for piece in part] for part in side_by_side(lengths)]
    return sum(len(part) * part[0] - sum(part) for part in parts)


@dataclass(frozen=True, eq=False)
class Segments:
    """The groups of a packed row of S tokens, in their order. Index tensors lie on `device`."""

    groups: tuple[Group, ...]
    device: torch.device

    @cached_property
    def pieces(self) -> tuple[int, ...]:
        """The lengths of all pieces, in the order of the row."""
        return tuple(n for group in self.groups for n in (group.prompt, *group.completions))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The place where each piece starts."""
        return (0, *accumulate(self.pieces))[:-1]

    @cached_property
    def prompts(self) -> tuple[int, ...]:
        """The length of each prompt that has completions."""
        return tuple(group.prompt for group in self.groups if group.completions)

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """Of each such prompt, the tokens of all its completions."""
        return tuple(sum(group.completions) for group in self.groups if group.completions)

    @cached_property
    def prompt_places(self) -> RowPlaces:
        """Where the tokens of those prompts are, [P]."""
        return self._places(lambda group: (0, group.prompt))

    @cached_property
    def completion_places(self) -> RowPlaces:
        """Where the tokens of all completions are, [C]."""
        return self._places(lambda group: (group.prompt, group.size))

    def _places(self, part: Callable[[Group], tuple[int, int]]) -> RowPlaces:
        """Collect a part of each group that has completions, from one place in it to another."""
        places = [torch.zeros(0, dtype=torch.int64)]
        start = 0
        for group in self.groups:
            first, last = part(group)
            if group.completions:
                places.append(torch.arange(start + first, start + last))
            start += group.size
        return RowPlaces(torch.cat(places), self.device)

    @cached_property
    def keys_of_pieces(self) -> tuple[Tensor, tuple[int, ...]]:
        """The places of all that each piece attends to, one piece behind the other, and how many:
        a prompt attends to itself, a completion to its prompt and to itself."""
        places, lengths = [], []
        starts = iter(self.starts)
        for group in self.groups:
            prompt = torch.arange(group.prompt) + next(starts)
            places.append(prompt)
            lengths.append(group.prompt)
            for length in group.completions:
                places += [prompt, torch.arange(length) + next(starts)]
                lengths.append(group.prompt + length)
        return torch.cat(places).to(self.device), tuple(lengths)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """All pieces, longest first, those side by side that need little padding."""
        return tuple(self._bucket(pieces) for pieces in side_by_side(self.pieces))

    def _bucket(self, pieces: Sequence[int]) -> Bucket:
        starts = torch.tensor([self.starts[piece] for piece in pieces])
        lengths = torch.tensor([self.pieces[piece] for piece in pieces])
        return Bucket(starts, lengths, self.device)
