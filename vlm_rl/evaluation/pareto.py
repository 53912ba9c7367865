"""Which policies give the most accuracy for their tokens? The set that no other one dominates.

One dominates another if it is at least as accurate with at most as many tokens, and better in one
of the two. All are measured on the same questions. How firm the set is, says a bootstrap: questions
are drawn anew, whole clusters at a time, the same for every policy, and each draw has a set of its
own. A single number for a frontier, such as an area under it, has no published definition that we
know of, so there is none.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlm_rl.evaluation.intervals import (
    FloatArray,
    IntervalEstimate,
    RatioEstimate,
    clustered,
    ratio,
)

DRAWS = 2000


@dataclass(frozen=True)
class ParetoPoint:
    """One policy: accuracy, mean tokens of a response, and its place.

    `dominated_by` names the policies that dominate it; without any it is in the set. `kept_frac` is
    the share of draws in whose set it is.
    """

    name: str
    accuracy: IntervalEstimate
    tokens: RatioEstimate
    dominated_by: tuple[str, ...]
    kept_frac: float

    @property
    def is_kept(self) -> bool:
        return not self.dominated_by


def dominated(accuracy: FloatArray, tokens: FloatArray) -> npt.NDArray[np.bool_]:
    """Return [..., M, M]: whether policy i is dominated by policy j, of `accuracy` and `tokens`
    [..., M]."""
    better = accuracy[..., None, :] - accuracy[..., :, None]
    longer = tokens[..., None, :] - tokens[..., :, None]
    return np.asarray((better >= 0) & (longer <= 0) & ((better > 0) | (longer < 0)))


def pareto(
    accuracy: Mapping[str, Sequence[float]],
    tokens: Mapping[str, Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[ParetoPoint]:
    """Return a point for each policy.

    Both maps have its values by question [Q]: the share of right samples, and the mean tokens of a
    sample. Raises ValueError without questions.
    """
    names = list(accuracy)
    values = np.array([accuracy[name] for name in names], dtype=np.float64)
    lengths = np.array([tokens[name] for name in names], dtype=np.float64)
    if not names or not len(clusters):
        raise ValueError("a Pareto set needs a policy and a question with known lengths")
    over = dominated(values.mean(1), lengths.mean(1))
    kept = _kept_frac(values, lengths, clusters, draws, seed)
    ones = np.ones(len(clusters))
    return [
        ParetoPoint(
            name=name,
            accuracy=clustered(values[place], clusters),
            tokens=ratio(lengths[place], ones, clusters),
            dominated_by=tuple(other for other, by in zip(names, over[place], strict=True) if by),
            kept_frac=float(kept[place]),
        )
        for place, name in enumerate(names)
    ]


def _kept_frac(
    accuracy: FloatArray, tokens: FloatArray, clusters: Sequence[Hashable], draws: int, seed: int
) -> FloatArray:
    """Return [M]: the share of draws in which nothing dominates a policy."""
    labels = {label: number for number, label in enumerate(dict.fromkeys(clusters))}
    member = np.zeros((len(clusters), len(labels)))
    member[np.arange(len(clusters)), [labels[label] for label in clusters]] = 1
    number = len(labels)
    times = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), draws)
    questions = times @ member.sum(0)
    means = [(times @ (values @ member).T) / questions[:, None] for values in (accuracy, tokens)]
    return np.asarray(1 - dominated(*means).any(-1).mean(0))
