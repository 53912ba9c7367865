"""Where the parts of a packed row lie: each prompt, and behind it its completions.

A completion attends to its own prompt and, causally, to itself. So there are two kinds of attention
between contiguous pieces and no mask: every piece to itself, and the completions of a group to
their prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

MOST_PADDING = 0.1
"""The largest share of padding where pieces are computed side by side."""


@dataclass(frozen=True)
class Group:
    """The tokens of a prompt, and those of each of its completions, at least 1."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the tokens of all."""
        return self.prompt + sum(self.completions)


class Bucket(NamedTuple):
    """Pieces of nearly one length side by side.

    `places` [n, m] are those in the row; behind a shorter piece its last place is repeated,
    and `is_real` [n, m] bool is False there.
    """

    places: Tensor
    is_real: Tensor


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
    def prompt_index(self) -> Tensor:
        """[P] int64: the places of the tokens of those prompts."""
        return self._places(lambda group: (0, group.prompt))

    @cached_property
    def completion_index(self) -> Tensor:
        """[C] int64: the places of all completion tokens."""
        return self._places(lambda group: (group.prompt, group.size))

    def _places(self, part: Callable[[Group], tuple[int, int]]) -> Tensor:
        """Collect a part of each group that has completions, from one place in it to another."""
        places = [torch.zeros(0, dtype=torch.int64)]
        start = 0
        for group in self.groups:
            first, last = part(group)
            if group.completions:
                places.append(torch.arange(start + first, start + last))
            start += group.size
        return torch.cat(places).to(self.device)

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
        """All pieces, longest first, side by side as long as the padding stays under a tenth."""
        order = sorted(range(len(self.pieces)), key=self.pieces.__getitem__, reverse=True)
        buckets: list[list[int]] = []
        tokens = 0
        for piece in order:
            length = self.pieces[piece]
            area = self.pieces[buckets[-1][0]] * (len(buckets[-1]) + 1) if buckets else 0
            if tokens + length < (1 - MOST_PADDING) * area or not buckets:
                buckets.append([])
                tokens = 0
            buckets[-1].append(piece)
            tokens += length
        return tuple(self._bucket(pieces) for pieces in buckets)

    def _bucket(self, pieces: Sequence[int]) -> Bucket:
        lengths = torch.tensor([self.pieces[piece] for piece in pieces])[:, None]
        starts = torch.tensor([self.starts[piece] for piece in pieces])[:, None]
        steps = torch.arange(int(lengths.max()))
        places = starts + steps.minimum(lengths - 1)
        return Bucket(places.to(self.device), (steps < lengths).to(self.device))
