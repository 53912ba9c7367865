"""Estimates over questions: goldens, closed forms, brute force over subsets, and simulation.

Broken on purpose, one at a time, each seen red:
    pass@k as 1 - (1 - c/n)^k -> goldens
    a tie that counts whole; no blanks in a subset -> majority golden
    no CR2; clusters ignored -> samples are not taken for questions
    a 90 % quantile -> interval golden
    clusters - 1 degrees of freedom always -> unequal clusters match dense matrices
    no fallback; a fallback over questions -> interval, paired without spread is no point
    adjusted p-values that fall -> Holm golden
    a one-sided p-value -> paired golden
"""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from vlm_rl.evaluation.intervals import (
    RatioEstimate,
    avg_at_k,
    clustered,
    difference,
    fraction_intervals,
    holm,
    maj_at_k,
    mcnemar,
    paired,
    pass_at_k,
    ratio,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(32, 1, 8, 0.25), (32, 8, 8, 0.930077), (8, 2, 4, 0.785714), (5, 0, 5, 0), (5, 1, 5, 1)],
)
def test_pass_at_k_golden(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=5e-7)


def test_pass_at_k_is_unbiased():
    # exact: over the binomial number of right samples its mean is the chance 1 - (1 - p)^k
    for n, k, p in ((32, 8, 0.05), (16, 16, 0.3), (8, 1, 0.7), (64, 4, 0.01)):
        chances = stats.binom.pmf(range(n + 1), n, p)
        mean = sum(chances[c] * pass_at_k(n, c, k) for c in range(n + 1))
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-10)
    # and from drawn samples
    table = np.array([pass_at_k(8, c, 4) for c in range(9)])
    counts = np.random.default_rng(0).binomial(8, 0.2, 100_000)
    assert table[counts].mean() == pytest.approx(1 - 0.8**4, abs=4 * 0.4 / math.sqrt(100_000))


def _majority_by_loop(classes, correct, k):
    """Every subset, votes counted by hand."""
    worth = {
        label: np.mean([right for c, right in zip(classes, correct, strict=True) if c == label])
        for label in classes
    }
    scores = []
    for subset in combinations(classes, k):
        votes = [label for label in subset if label is not None]
        most = max((votes.count(label) for label in votes), default=0)
        winners = {label for label in votes if votes.count(label) == most}
        scores.append(np.mean([worth[label] for label in winners]) if winners else 0)
    return np.mean(scores)


def test_majority_golden():
    right = [True, True, False, False, False]
    assert maj_at_k([0, 0, 1, 2, 3], right, 5) == 1  # a plurality, not a majority
    assert maj_at_k([0, 0, 1, 1, 2], right, 5) == 0.5  # a tie of two classes
    assert maj_at_k([0, 1, 1, None, None], [True, False, False, False, False], 5) == 0
    assert maj_at_k([0, None, None, None, None], [True] + [False] * 4, 5) == 1  # blanks never win
    assert maj_at_k([None, None], [False, False], 2) == 0
    assert maj_at_k([0, 1, 1, 1], [True, False, False, False], 1) == 0.25  # one sample: avg


def test_majority_matches_all_subsets():
    generator = np.random.default_rng(0)
    for _ in range(30):
        n = int(generator.integers(1, 10))
        labels = [None if c == 4 else int(c) for c in generator.integers(0, 5, n)]
        correct = [label == 1 for label in labels]
        for k in range(1, n + 1):
            expected = _majority_by_loop(labels, correct, k)
            assert maj_at_k(labels, correct, k) == pytest.approx(expected, abs=1e-12)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"pass@9 needs k from 1 to the 8 samples"):
        pass_at_k(8, 1, 9)
    with pytest.raises(ValueError, match=r"maj@3 needs k from 1 to the 2 samples"):
        maj_at_k([0, 1], [True, False], 3)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 3 to 40"):
        clustered([3, 40], "ab")
    with pytest.raises(ValueError, match=r"2 values for 1 questions"):
        clustered([0.5, 0.5], "a")
    with pytest.raises(ValueError, match="at least one sample"):
        avg_at_k([[True], []])


def test_samples_are_not_taken_for_questions():
    # 30 questions of 32 samples: 10 always right, 10 never, 10 a coin; over 960 samples as if
    # independent the standard error is sqrt(0.25 / 960) = 0.016
    generator = np.random.default_rng(0)
    coins = generator.random((10, 32)) < 0.5
    correct = np.concatenate([np.ones((10, 32)), np.zeros((10, 32)), coins])
    estimate = clustered(avg_at_k(correct), range(30))
    assert estimate.standard_error == pytest.approx(0.077, abs=1e-3)
    naive = clustered(correct.flatten(), range(960))
    assert naive.standard_error == pytest.approx(0.016, abs=3e-4)
    # each question's samples given as its cluster are the same as their mean
    whole = clustered(correct.flatten(), np.repeat(range(30), 32))
    assert whole.standard_error == pytest.approx(estimate.standard_error, rel=1e-12)
    assert (whole.low, whole.high) == pytest.approx((estimate.low, estimate.high), abs=1e-12)


def test_interval_golden():
    # m = 0.4, variance 0.24 / 99, so 99 effective questions, t(99) = 1.98422: Wilson by hand
    estimate = clustered([1] * 40 + [0] * 60, range(100))
    assert estimate.standard_error == pytest.approx(math.sqrt(0.24 / 99), rel=1e-12)
    weight = 1.98422**2 / 99
    half = math.sqrt(weight * 0.24 + weight**2 / 4) / (1 + weight)
    centre = (0.4 + weight / 2) / (1 + weight)
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    # clusters of 1, 1 and 2: residuals -0.5, -0.5 and 1 over 1 - share: 1/3 + 1/3 + 2, over 16
    uneven = clustered([0, 0, 1, 1], "abcc")
    assert uneven.standard_error == pytest.approx(math.sqrt((2 / 3 + 2) / 16), rel=1e-12)
    assert (uneven.num_questions, uneven.num_clusters) == (4, 3)


def test_unequal_clusters_match_dense_matrices():
    # CR2 of a regression on a constant, degrees of freedom after Bell and McCaffrey with all
    # questions of a cluster alike: matrices over questions, as the papers write them
    generator = np.random.default_rng(0)
    sizes = np.array([1, 2, 9, 4, 4, 1])
    labels = np.repeat(range(6), sizes)
    values = generator.normal(size=21) + np.repeat(generator.normal(size=6), sizes)
    residual_maker = np.eye(21) - 1 / 21
    columns, variance = [], 0.0
    for label, size in enumerate(sizes):
        rows = labels == label
        inner = np.linalg.inv(np.eye(size) - 1 / 21)
        eigenvalues, vectors = np.linalg.eigh(inner)
        root = vectors @ np.diag(np.sqrt(eigenvalues)) @ vectors.T
        variance += (root @ (values - values.mean())[rows]).sum() ** 2 / 21**2
        columns.append(residual_maker[rows].T @ root @ np.ones(size) / 21)
    alike = (labels[:, None] == labels).astype(float)
    inner = np.array(columns) @ alike @ np.array(columns).T
    freedom = np.trace(inner) ** 2 / np.trace(inner @ inner)
    estimate = difference(values, labels.tolist())
    assert estimate.standard_error == pytest.approx(math.sqrt(variance), rel=1e-12)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert estimate.high - estimate.mean == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_interval_without_spread_is_no_point(value):
    estimate = clustered([value] * 50, range(50))
    assert estimate.standard_error is None
    assert estimate.high - estimate.low > 0.05
    assert estimate.low <= value <= estimate.high
    if value == 1:
        assert estimate.low == pytest.approx(0.025 ** (1 / 50))
        versions = clustered([value] * 50, np.repeat(range(10), 5))
        assert versions.low == pytest.approx(0.025 ** (1 / 10))


def test_one_cluster_says_almost_nothing():
    estimate = clustered([0, 1, 1, 1], "aaaa")
    assert estimate.mean == 0.75
    assert estimate.high - estimate.low > 0.9


def _coverage(generator, chance, sizes, num_samples, num_evaluations=20_000):
    """Share of intervals that hold `chance`; each cluster has its own beta chance around it."""
    clusters = np.repeat(range(len(sizes)), sizes)
    held = 0
    for _ in range(num_evaluations // 2000):
        chances = generator.beta(4 * chance, 4 * (1 - chance), (2000, len(sizes)))
        by_question = np.repeat(chances, sizes, axis=1)
        values = generator.binomial(num_samples, by_question) / num_samples
        estimate = fraction_intervals(values, clusters)
        held += int(((estimate.low <= chance) & (chance <= estimate.high)).sum())
    return held / num_evaluations


@pytest.mark.parametrize("num_samples", [1, 8])
@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.9])
def test_interval_covers_with_unequal_clusters(chance, num_samples):
    # 550 questions in 100 clusters of 1 to 10, correlated 0.2 within a cluster
    sizes = np.tile(range(1, 11), 10)
    covered = _coverage(np.random.default_rng(0), chance, sizes, num_samples)
    assert 0.94 <= covered <= 0.96


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.9])
def test_interval_covers_with_a_hundred_questions_of_eight_samples(chance):
    covered = _coverage(np.random.default_rng(0), chance, np.ones(100, dtype=int), 8)
    assert 0.94 <= covered <= 0.96


def test_interval_covers_single_samples_on_average():
    # one sample of independent questions is a binomial count, whose coverage swings with the number
    # of questions whatever the interval; so exact, over 100 to 300 questions
    for chance in (0.1, 0.3, 0.5, 0.9):
        covered = []
        for number in range(100, 301, 25):
            counts = np.arange(number + 1)
            values = (np.arange(number) < counts[:, None]).astype(float)
            estimate = fraction_intervals(values, range(number))
            held = (estimate.low <= chance) & (chance <= estimate.high)
            covered.append(stats.binom.pmf(counts, number, chance)[held].sum())
        assert min(covered) > 0.93
        assert 0.94 <= np.mean(covered) <= 0.96


def test_paired_golden():
    # differences 1, 1, 0, 0, -1, 0, 0, 0, 0, 0: mean 0.1, the t test of one sample
    first = np.array([0, 0, 1, 0, 1, 1, 0, 1, 0, 1])
    second = np.array([1, 1, 1, 0, 0, 1, 0, 1, 0, 1])
    estimate, oracle = paired(first, second, range(10)), stats.ttest_1samp(second - first, 0)
    interval = oracle.confidence_interval()
    assert estimate.mean == pytest.approx(0.1)
    assert estimate.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert estimate.within_noise
    # pairing is what makes the difference sure: the same shares unpaired overlap
    better = paired([0.1, 0.5, 0.9] * 20, [0.2, 0.55, 0.95] * 20, range(60))
    assert not better.within_noise
    assert better.mcnemar_p is None


def test_mcnemar_golden():
    # 12 questions differ, 10 gained and 2 lost: 2 (1 + 12 + 66) / 2^12
    first = np.array([0] * 10 + [1] * 2 + [1] * 30)
    second = np.array([1] * 10 + [0] * 2 + [1] * 30)
    assert mcnemar(first, second) == pytest.approx(2 * 79 / 4096)
    assert paired(first, second, range(42)).mcnemar_p == pytest.approx(2 * 79 / 4096)
    assert mcnemar(first, first) == 1


def test_paired_p_values_are_uniform_under_the_null():
    generator = np.random.default_rng(0)
    sizes = np.tile(range(1, 11), 4)
    clusters = np.repeat(range(40), sizes).tolist()
    p_values = []
    for _ in range(1500):
        by_question = np.repeat(generator.beta(1, 1, 40), sizes)
        # what two policies find hard differs by cluster as well, alike for both
        shift = np.repeat(generator.normal(0, 0.1, 40), sizes)
        first, second = (
            generator.binomial(8, np.clip(by_question + sign * shift, 0, 1)) / 8 for sign in (-1, 1)
        )
        p_values.append(paired(first, second, clusters).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.018)


def test_paired_without_spread_is_no_point():
    same = paired([1.0, 0.0] * 10, [1.0, 0.0] * 10, range(20))
    assert (same.mean, same.p_value) == (0, 1)
    assert same.high == -same.low == pytest.approx(1 - 0.025 ** (1 / 20))
    versions = paired([1.0, 0.0] * 10, [1.0, 0.0] * 10, np.repeat(range(4), 5))
    assert versions.high == pytest.approx(1 - 0.025 ** (1 / 4))
    all_gained = paired([0.0] * 5, [1.0] * 5, range(5))
    assert all_gained.p_value == pytest.approx(2 / 2**5)
    assert all_gained.within_noise  # five clusters are not enough: 0.0625
    assert not paired([0.0] * 6, [1.0] * 6, range(6)).within_noise
    alone = paired([0, 1, 0], [1, 1, 1], "aaa")
    assert alone.within_noise
    assert alone.high - alone.low > 1
    unbounded = difference([7.0, 7.0, 7.0], range(3))
    assert (unbounded.mean, unbounded.low, unbounded.p_value) == (7, None, None)


def test_holm_golden():
    # sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1, never falling
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]) == []


def test_ratio_matches_the_linearised_loop():
    totals, counts, clusters = [9.0, 3.0, 5.0, 8.0, 2.0], [1, 0, 1, 0, 1], list("aabcd")
    estimate = ratio(totals, counts, clusters)
    value = sum(totals) / sum(counts)
    residuals = {}
    for total, count, cluster in zip(totals, counts, clusters, strict=True):
        residuals.setdefault(cluster, []).append(total - value * count)
    # CR2: each cluster's residual over the square root of one minus its share
    shares = {cluster: len(rows) / len(totals) for cluster, rows in residuals.items()}
    variance = sum(sum(rows) ** 2 / (1 - shares[c]) for c, rows in residuals.items())
    error = math.sqrt(variance) / sum(counts)
    assert estimate.value == pytest.approx(value)
    assert estimate.low * estimate.high == pytest.approx(value**2)  # symmetric in the logarithm
    quantile = math.log(estimate.high / value) / (error / value)
    assert 2.5 < quantile < 4.5  # of t with 2 to 3 degrees of freedom
    assert ratio([2.0, 2.0], [1, 1], ["a", "b"]) == RatioEstimate(2.0, None, None)
    with pytest.raises(ValueError, match="counts above 0"):
        ratio([2.0], [0], ["a"])


def test_ratio_covers_the_tokens_per_right_answer():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        # 100 questions of 4 samples: hard ones have longer answers
        chance = generator.beta(2, 2, 100)
        right = generator.random((100, 4)) < chance[:, None]
        tokens = generator.gamma(2.0, 150.0, (100, 4)) * (1.5 - chance[:, None])
        # E tokens = 300 (1.5 - 0.5) = 300, E right = 0.5
        estimate = ratio(tokens.ravel(), right.ravel(), np.repeat(np.arange(100), 4).tolist())
        covered += estimate.low <= 600 <= estimate.high
    assert 0.93 < covered / 2000 < 0.97
