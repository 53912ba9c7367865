"""Statistics of verdicts: avg@k, pass@k, maj@k, intervals, paired differences.

Neither samples nor versions of one question are independent. So everything here starts from one
value per question `[Q]` and treats the questions of a cluster as one draw.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2


@dataclass(frozen=True)
class IntervalEstimate:
    """A mean over questions and its 95 % interval. `standard_error` is None if the clusters show no
    spread or there is only one."""

    mean: float
    low: float
    high: float
    standard_error: float | None
    num_questions: int
    num_clusters: int


@dataclass(frozen=True)
class Difference:
    """Mean of second minus first over the same questions, with its 95 % interval.

    `p_value` is two-sided. `mcnemar_p`, the exact test over questions as if they were independent,
    is None unless all values are 0 or 1. `low`, `high` and `p_value` are None if nothing bounds the
    values and the clusters show no spread.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    standard_error: float | None
    mcnemar_p: float | None
    num_questions: int
    num_clusters: int

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0, or there is none."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


@dataclass(frozen=True)
class RatioEstimate:
    """A ratio of two sums and its 95 % interval, None where it cannot be known."""

    value: float
    low: float | None
    high: float | None


class Intervals(NamedTuple):
    """Many estimates at once, each field [...]; `standard_error` is NaN if there is none."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    standard_error: FloatArray


def avg_at_k(correct: Sequence[Sequence[bool]]) -> FloatArray:
    """Return the share of right samples of each question [Q], whose mean is avg@k.

    `correct` is [Q][k]; questions may have different numbers of samples, at least one.
    """
    if not all(len(samples) for samples in correct):
        raise ValueError("avg@k needs at least one sample of every question; leave out the others")
    return np.array([np.mean(samples) for samples in correct], dtype=np.float64)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Estimate, without bias, the chance that k of the samples hold a right one:
    1 - C(n - c, k) / C(n, k) (https://arxiv.org/abs/2107.03374)."""
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"pass@k got {num_correct} right of {num_samples} samples")
    _check_k("pass", k, num_samples)
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def maj_at_k(classes: Sequence[int | None], correct: Sequence[bool], k: int) -> float:
    """Return the chance that the most frequent answer among k of a question's samples is right.

    `classes` [n] give equal answers the same number. None stands for no answer, which wins, and is
    wrong, only if there is nothing else. A tie counts the mean over the tied classes, a class the
    mean over its samples. Exact, over all subsets of size k.
    """
    _check_k("maj", k, len(classes))
    rights: dict[int, list[bool]] = {}
    for label, right in zip(classes, correct, strict=True):
        if label is not None:
            rights.setdefault(label, []).append(right)
    counts = tuple(sorted(map(len, rights.values())))
    num_blank = len(classes) - sum(counts)
    return float(
        sum(
            np.mean(samples) * _plurality_chance(len(samples), counts, num_blank, k)
            for samples in rights.values()
        )
    )


def clustered(
    values: Sequence[float] | FloatArray, clusters: Sequence[Hashable]
) -> IntervalEstimate:
    """Return the mean of `values` [Q], each in [0, 1], and its interval; see
    `fraction_intervals`."""
    array = _checked(values, clusters)
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"values must be in [0, 1], got {array.min():g} to {array.max():g}; "
            "`difference` takes values without bounds"
        )
    mean, low, high, error = (float(field) for field in fraction_intervals(array, clusters))
    return IntervalEstimate(mean, low, high, _known(error), len(array), len(set(clusters)))


def fraction_intervals(values: FloatArray, clusters: Sequence[Hashable]) -> Intervals:
    """Return 95 % intervals for the mean over questions of `values` [..., Q], each in [0, 1].

    The variance is that of a ratio of cluster sums over cluster sizes, linearised, each residual
    divided by the square root of one minus its cluster's share (CR2). The interval is Wilson's with
    the effective number of questions m (1 - m) / variance. Its t quantile has the degrees of
    freedom of Bell and McCaffrey for clusters of questions that are all alike: clusters - 1 if all
    are equally large. Near 0 and 1 it covers, while mean +- t standard errors does not. In
    simulations with chances from 0.1 to 0.9 and a correlation within clusters up to 1/3 it covered
    94 to 96 % from 100 clusters on; with 20 clusters and a chance of 0.1 only 91 to 95 %. With
    single samples of independent questions the number of right ones is discrete; it then covers 93
    to 97 % from 100 questions on, depending on the chance.

    If the clusters show no spread (all right, all wrong) or there is one cluster, it is the
    interval of Clopper and Pearson as if each cluster were one draw: wide, never a point.
    """
    sums, sizes = _cluster_sums(values, clusters)
    mean = values.mean(-1)
    variance = _variance(sums, sizes)
    plain = ~_no_spread(variance) & ((mean > 0) & (mean < 1))
    low, high = _clopper_pearson(mean, len(sizes))
    if len(sizes) > 1:
        quantile = stats.t.ppf(1 - _TAIL, _degrees_of_freedom(sizes))
        number = mean * (1 - mean) / np.where(plain, variance, 1.0)
        wilson = _wilson(mean, np.where(plain, number, 1.0), quantile)
        low, high = np.where(plain, wilson[0], low), np.where(plain, wilson[1], high)
    return Intervals(mean, low, high, np.where(plain, np.sqrt(variance), np.nan))


def paired(
    first: Sequence[float] | FloatArray,
    second: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
) -> Difference:
    """Return second minus first over the same questions; both [Q] in [0, 1].

    As `difference`, but never a point. If all differences are 0, no share of questions above
    1 - 0.025^(1 / clusters) can differ, which bounds the mean. If they are all equal, or of one
    cluster, half of one plus the difference is a fraction for Clopper and Pearson.
    """
    a, b = _checked(first, clusters), _checked(second, clusters)
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1:
        raise ValueError("paired values must be in [0, 1]; `difference` takes others")
    unbounded = difference(b - a, clusters)
    low, high, p_value = unbounded.low, unbounded.high, unbounded.p_value
    if low is None or high is None:
        low, high, p_value = _bounded_difference(b - a, unbounded.num_clusters)
    exact = mcnemar(a, b) if np.isin((a, b), (0, 1)).all() else None
    return replace(
        unbounded, low=max(low, -1.0), high=min(high, 1.0), p_value=p_value, mcnemar_p=exact
    )


def difference(deltas: Sequence[float] | FloatArray, clusters: Sequence[Hashable]) -> Difference:
    """Return the mean of per-question differences `deltas` [Q] without bounds, such as lengths.

    The interval is mean +- t standard errors, with the variance and degrees of freedom of
    `fraction_intervals`.
    """
    array = _checked(deltas, clusters)
    sums, sizes = _cluster_sums(array, clusters)
    mean, variance = float(array.mean()), _variance(sums, sizes)
    numbers = (len(array), len(sizes))
    if _no_spread(variance):
        return Difference(mean, None, None, None, None, None, *numbers)
    error, freedom = float(np.sqrt(variance)), _degrees_of_freedom(sizes)
    half = float(stats.t.ppf(1 - _TAIL, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, mean - half, mean + half, p_value, error, None, *numbers)


def ratio(
    totals: Sequence[float] | FloatArray,
    counts: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
) -> RatioEstimate:
    """Return the sum of `totals` [N] over the sum of `counts` [N], both >= 0, and its interval.

    The ratio is linearised: its variance is that of the mean of (total - ratio count) / mean count,
    with clusters as in `fraction_intervals`. The interval is symmetric on the log scale, so it
    stays above 0. It has no ends if the clusters show no spread. Raises ValueError if the counts
    add up to 0.
    """
    above, below = _checked(totals, clusters), _checked(counts, clusters)
    if below.sum() <= 0:
        raise ValueError("a ratio needs counts above 0")
    value = float(above.sum() / below.sum())
    sums, sizes = _cluster_sums((above - value * below) / below.mean(), clusters)
    variance = _variance(sums, sizes)
    if _no_spread(variance) or value <= 0:
        return RatioEstimate(value, None, None)
    quantile = float(stats.t.ppf(1 - _TAIL, _degrees_of_freedom(sizes)))
    factor = float(np.exp(quantile * np.sqrt(variance) / value))
    return RatioEstimate(value, value / factor, value * factor)


def mcnemar(first: FloatArray, second: FloatArray) -> float:
    """Return the exact two-sided p-value that questions [Q] turn right as often as wrong.

    Values are 0 or 1.
    """
    gained, lost = int((second > first).sum()), int((second < first).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being several, and return them in their order (Holm 1979).

    If no difference is real, any of them is below 0.05 at most 5 % of the time.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    steps = [(len(p_values) - rank) * p_values[i] for rank, i in enumerate(order)]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(value) for value in adjusted]


def _check_k(name: str, k: int, num_samples: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"{name}@{k} needs k from 1 to the {num_samples} samples of the question")


@lru_cache(maxsize=65536)
def _plurality_chance(own: int, counts: tuple[int, ...], num_blank: int, k: int) -> float:
    """Return the expected share of the victory of one class, over subsets of k samples.

    The class has `own` samples, all classes have `counts`. Blanks fill up the subset and never win.
    """
    rivals = list(counts)
    rivals.remove(own)
    total = 0.0
    for votes in range(1, min(own, k) + 1):
        for (taken, ties), ways in _rival_ways(rivals, votes, k - votes).items():
            total += comb(own, votes) * ways * comb(num_blank, k - votes - taken) / (ties + 1)
    return total / comb(sum(counts) + num_blank, k)


def _rival_ways(rivals: Sequence[int], votes: int, room: int) -> Counter[tuple[int, int]]:
    """Count the ways in which rivals take (samples, ties with `votes`), each at most `votes`."""
    ways = Counter({(0, 0): 1})
    for count in rivals:
        more: Counter[tuple[int, int]] = Counter()
        for (taken, ties), number in ways.items():
            for took in range(min(count, votes, room - taken) + 1):
                more[taken + took, ties + (took == votes)] += number * comb(count, took)
        ways = more
    return ways


def _checked(values: Sequence[float] | FloatArray, clusters: Sequence[Hashable]) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(clusters),) or not len(array):
        raise ValueError(
            f"{array.size} values for {len(clusters)} questions; give one for each, at least one"
        )
    if not np.isfinite(array).all():
        raise ValueError("values must be finite; leave out the questions without one")
    return array


def _cluster_sums(
    values: FloatArray, clusters: Sequence[Hashable]
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the sums of `values` [..., Q] by cluster [..., C] and the sizes [C]."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(clusters))}
    index = np.array([numbers[label] for label in clusters])
    sizes = np.bincount(index)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    ordered = values[..., np.argsort(index, kind="stable")]
    return np.add.reduceat(ordered, starts, axis=-1), sizes


def _variance(sums: FloatArray, sizes: npt.NDArray[np.int64]) -> FloatArray:
    """Return the variance of sum(sums) / sum(sizes), NaN for one cluster."""
    num_questions = sizes.sum()
    mean = sums.sum(-1, keepdims=True) / num_questions
    if len(sizes) == 1:
        return np.full(sums.shape[:-1], np.nan)
    squares = (sums - sizes * mean) ** 2 / (1 - sizes / num_questions)
    return np.asarray(squares.sum(-1) / num_questions**2)


def _no_spread(variance: FloatArray) -> npt.NDArray[np.bool_]:
    # rounding leaves up to 1e-30 if all clusters are equal
    return np.isnan(variance) | (variance < 1e-24)


def _degrees_of_freedom(sizes: npt.NDArray[np.int64]) -> float:
    """Return tr(B)^2 / tr(B^2), where B is the covariance of the scaled residuals of the clusters
    if all questions of a cluster were alike; clusters - 1 if all are equally large."""
    share = sizes / sizes.sum()
    own = sizes.astype(np.float64) ** 2
    scale = 1 / (1 - share)
    # residuals S - share sum(S) have covariance diag(own) + left.T @ right
    left = np.stack((-share, -own, own.sum() * share))
    right = np.stack((own, share, share))
    shared = (left * right).sum(0)
    diagonal = scale * (own + shared)
    everywhere = ((scale * left) @ left.T * ((scale * right) @ right.T)).sum()
    squares = everywhere - ((scale * shared) ** 2).sum() + (diagonal**2).sum()
    return float(diagonal.sum() ** 2 / squares)


def _wilson(mean: FloatArray, number: FloatArray, quantile: float) -> tuple[FloatArray, FloatArray]:
    weight = quantile**2 / number
    centre = (mean + weight / 2) / (1 + weight)
    half = np.sqrt(weight * mean * (1 - mean) + weight**2 / 4) / (1 + weight)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def _clopper_pearson(mean: FloatArray, number: int) -> tuple[FloatArray, FloatArray]:
    right, wrong = mean * number, (1 - mean) * number
    low = np.where(right > 0, stats.beta.ppf(_TAIL, right, wrong + 1), 0.0)
    high = np.where(wrong > 0, stats.beta.ppf(1 - _TAIL, right + 1, wrong), 1.0)
    return low, high


def _bounded_difference(deltas: FloatArray, num_clusters: int) -> tuple[float, float, float]:
    """Return low end, high end and p-value if the clusters show no spread."""
    if not deltas.any():
        most = 1 - _TAIL ** (1 / num_clusters)
        return -most, most, 1.0
    share = (1 + deltas.mean()) / 2
    low, high = _clopper_pearson(np.array(share), num_clusters)
    right, wrong = share * num_clusters, (1 - share) * num_clusters
    below = stats.beta.cdf(0.5, right, wrong + 1) if right else 1.0
    above = stats.beta.sf(0.5, right + 1, wrong) if wrong else 1.0
    return float(2 * low - 1), float(2 * high - 1), float(min(1.0, 2 * below, 2 * above))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
