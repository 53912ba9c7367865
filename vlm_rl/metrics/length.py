"""Length fairness: does an objective treat long and short completions alike?

Acceptance q(L) is the share of a sequence's tokens that keep their gradient, as a function of its
length, among the sequences that updates compute. Theory and training differ, so there are two
definitions. `inside`: the ratio is within the band, whatever the sign of the advantage. `accepted`:
no gradient is cut off, among sequences whose advantage is not 0. If a rollout has several updates,
only those after the first count: in the first the weights have not moved and nothing can be
clipped.

LRE, the length reweighting error of FSPO (arXiv:2509.09177), is 1/2 E|q(L) / E q - 1|. It is 0 if
acceptance does not depend on length. The paper does not give its bins. Here they hold equally many
sequences, as far as frequent lengths allow, and each weighs by its number of sequences.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_rl.objectives import Sequences
from vlm_rl.records import Rollout

NUM_BINS = 10
BY_BIN = ("inside", "accepted", "clipped_low", "clipped_high", "clipped_dual", "weight")


@dataclass(frozen=True)
class LengthBin:
    """Means over the sequences of lengths `least` to `most`.

    `accepted`, the weights and `clipped_*` are over the `num_learning` sequences whose advantage is
    not 0; None without any. `weight` is a token's factor of A grad log pi, clipped tokens included.
    `weight_first` is the same in the first update of each rollout, at ratio 1.
    """

    least: int
    most: int
    mean_length: float
    num_sequences: int
    num_learning: int
    inside: float
    accepted: float | None
    clipped_low: float | None
    clipped_high: float | None
    clipped_dual: float | None
    weight: float | None
    weight_first: float | None


@dataclass(frozen=True)
class LengthReport:
    """q(L) by bin and the LRE of both definitions.

    `lre_*_floor` is the LRE that a perfectly fair band would show with so few sequences per bin. An
    LRE that is not well above its floor says nothing. Both are None if nothing is accepted.
    """

    bins: tuple[LengthBin, ...]
    lre_inside: float | None
    lre_inside_floor: float | None
    lre_accepted: float | None
    lre_accepted_floor: float | None

    @property
    def metrics(self) -> dict[str, float]:
        """Return `length/...`: LREs, floors, E q; q and clip fractions by bin, shortest first."""
        values: dict[str, float | None] = {
            "q_inside": self._q("inside", "num_sequences"),
            "q_accepted": self._q("accepted", "num_learning"),
            "lre_inside": self.lre_inside,
            "lre_inside_floor": self.lre_inside_floor,
            "lre_accepted": self.lre_accepted,
            "lre_accepted_floor": self.lre_accepted_floor,
            "num_bins": len(self.bins),
            "bin_num_sequences": min(b.num_sequences for b in self.bins),
        }
        for index, part in enumerate(self.bins, 1):
            values |= {f"{name}_bin{index}": getattr(part, name) for name in BY_BIN}
        return {f"length/{name}": value for name, value in values.items() if value is not None}

    def _q(self, name: str, count: str) -> float | None:
        """Return E q over the bins; LREs compare at equal q, as they go to 0 where q goes to 1."""
        parts = [(getattr(b, name), getattr(b, count)) for b in self.bins if getattr(b, count)]
        total = sum(number for _, number in parts)
        return sum(value * number for value, number in parts) / total if total else None

    def plain(self) -> dict[str, Any]:
        """Return plain values, as they are written to a file."""
        return asdict(self) | {"bins": [asdict(part) for part in self.bins]}


class LengthWindow:
    """The sequences of the last `window_steps` steps."""

    def __init__(self, window_steps: int = 100) -> None:
        self.window_steps = window_steps
        self._updates: list[list[Sequences]] = []
        self._rollouts: list[dict[str, Tensor]] = []

    def add(self, updates: Sequence[Sequences], *rollouts: Rollout) -> None:
        """Add one step: `updates` are its sequences by update, in order; `rollouts` all groups."""
        self._updates.append([Sequences(*(column.cpu() for column in part)) for part in updates])
        self._rollouts.append(_lengths_by_verdict([r for r in rollouts if r.groups]))
        del self._updates[: -self.window_steps], self._rollouts[: -self.window_steps]

    def lengths(self) -> dict[str, Tensor]:
        """Return the lengths [n] of the correct, the wrong and the truncated completions."""
        return {
            kind: torch.cat([step[kind] for step in self._rollouts])
            for kind in ("correct", "wrong", "truncated")
        }

    def report(self, num_bins: int = NUM_BINS) -> LengthReport | None:
        """Return q(L) over the window; None before the first update."""
        first = _joined(step[0] for step in self._updates)
        moved = _joined(part for step in self._updates for part in step[1:])
        judged = first if moved is None else moved
        if judged is None or not len(judged.length):
            return None
        return report_of(judged, first, num_bins)

    def state_dict(self) -> dict[str, Any]:
        updates = [[tuple(part) for part in step] for step in self._updates]
        return {"updates": updates, "rollouts": self._rollouts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = [[Sequences(*part) for part in step] for step in state["updates"]]
        self._rollouts = list(state["rollouts"])


def _lengths_by_verdict(rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    lengths: dict[str, list[Tensor]] = {"correct": [], "wrong": [], "truncated": []}
    for rollout in rollouts:
        scored, correct = rollout.scores.scored, rollout.scores.correct
        lengths["correct"].append(rollout.lengths[correct])
        lengths["wrong"].append(rollout.lengths[scored & ~correct])
        lengths["truncated"].append(rollout.lengths[rollout.truncated])
    return {kind: torch.cat(parts) for kind, parts in lengths.items()}


def report_of(judged: Sequences, first: Sequences | None, num_bins: int = NUM_BINS) -> LengthReport:
    """Report on `judged`, which decide the bins; `first`, at ratio 1, give `weight_first` only."""
    edges = equal_mass_edges(judged.length, num_bins)
    inside, counts = _mean_by_bin(judged.inside, judged.length, edges)
    learning = _learning(judged)
    accepted, num_learning = _mean_by_bin(learning.accepted, learning.length, edges)
    means = {
        name: _mean_by_bin(getattr(learning, name), learning.length, edges)[0]
        for name in ("clipped_low", "clipped_high", "clipped_dual", "weight")
    }
    means["accepted"] = accepted
    if first is not None:
        at_one = _learning(first)
        means["weight_first"] = _mean_by_bin(at_one.weight, at_one.length, edges)[0]
    else:
        means["weight_first"] = torch.full_like(inside, math.nan)
    mean_length, _ = _mean_by_bin(judged.length.double(), judged.length, edges)
    bins = tuple(
        LengthBin(
            least=int(least),
            most=int(most),
            mean_length=float(mean_length[index]),
            num_sequences=int(counts[index]),
            num_learning=int(num_learning[index]),
            inside=float(inside[index]),
            **{name: _or_none(values[index]) for name, values in means.items()},
        )
        for index, (least, most) in enumerate(_spans(judged.length, edges))
    )
    return LengthReport(
        bins,
        length_rate_error(inside, counts),
        sampling_floor(inside, counts),
        length_rate_error(accepted, num_learning),
        sampling_floor(accepted, num_learning),
    )


def equal_mass_edges(lengths: Tensor, num_bins: int) -> Tensor:
    """Return the upper ends (inclusive) of at most `num_bins` bins of about equally many `lengths`
    [n]. Equal lengths share a bin, so a frequent length makes fewer bins."""
    ordered = lengths.sort().values
    ranks = (torch.arange(1, num_bins + 1) * len(ordered) / num_bins).ceil().long() - 1
    edges: Tensor = ordered[ranks].unique()
    return edges


def length_rate_error(q: Tensor, counts: Tensor) -> float | None:
    """Return 1/2 E|q / E q - 1| over bins [K], each weighted by its count; None if nothing is
    accepted or counted."""
    filled = counts > 0
    q, mass = q[filled].double(), counts[filled].double() / counts[filled].sum()
    mean = (mass * q).sum()
    return float((mass * (q / mean - 1).abs()).sum() / 2) if mean > 0 else None


def sampling_floor(q: Tensor, counts: Tensor) -> float | None:
    """Return the LRE that chance alone gives a perfectly fair band.

    With n sequences in a bin, each accepted with probability q, E|q_bin / q - 1| is
    sqrt(2 / pi) sqrt((1 - q) / (q n)).
    """
    filled = counts > 0
    counts = counts[filled].double()
    mass = counts / counts.sum()
    mean = (mass * q[filled]).sum()
    spread = torch.sqrt((1 - mean).clamp(min=0) / (mean * counts))
    return float((mass * spread).sum() * math.sqrt(2 / math.pi) / 2) if mean > 0 else None


def _joined(parts: Iterable[Sequences]) -> Sequences | None:
    listed = list(parts)
    if not listed:
        return None
    joined = Sequences.joined(listed)
    return _where(joined, joined.length > 0)


def _where(sequences: Sequences, keep: Tensor) -> Sequences:
    return Sequences(*(column[keep] for column in sequences))


def _learning(sequences: Sequences) -> Sequences:
    return _where(sequences, ~sequences.weight.isnan())


def _mean_by_bin(values: Tensor, lengths: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of `values` [n] in each bin [K], NaN if it is empty, and the counts [K]."""
    bins = torch.bucketize(lengths, edges).clamp(max=len(edges) - 1)
    counts = torch.bincount(bins, minlength=len(edges))
    sums = torch.zeros(len(edges), dtype=torch.float64).index_add(0, bins, values.double())
    return sums / counts, counts


def _spans(lengths: Tensor, edges: Tensor) -> list[tuple[int, int]]:
    bins = torch.bucketize(lengths, edges)
    parts = [lengths[bins == index] for index in range(len(edges))]
    return [(int(part.min()), int(part.max())) for part in parts]


def _or_none(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)
