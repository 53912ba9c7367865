"""The Pareto set of several policies: a loop over the definition, ties, and how firm the set is.

Broken on purpose, one at a time, each seen red:
    a policy that dominates its equal; dominance by one of two -> loop
    questions of several clusters drawn together -> points, bootstrap
"""

import random
from collections import Counter

import numpy as np
import pytest

from vlm_rl.evaluation.intervals import clustered
from vlm_rl.evaluation.pareto import dominated, pareto


def loop(accuracy: list[float], tokens: list[float]) -> list[list[bool]]:
    rows = []
    for i in range(len(accuracy)):
        row = []
        for j in range(len(accuracy)):
            no_worse = accuracy[j] >= accuracy[i] and tokens[j] <= tokens[i]
            row.append(no_worse and (accuracy[j] > accuracy[i] or tokens[j] < tokens[i]))
        rows.append(row)
    return rows


def test_dominance_matches_loop():
    draw = random.Random(0)
    for _ in range(200):
        size = draw.randint(1, 6)
        accuracy = [draw.randint(0, 3) / 3 for _ in range(size)]  # with ties
        tokens = [float(draw.randint(1, 4)) for _ in range(size)]
        found = dominated(np.array(accuracy), np.array(tokens))
        assert found.tolist() == loop(accuracy, tokens)


def test_points_have_intervals_and_say_what_dominates_them():
    right = {"base": [1, 0, 1, 0], "short": [1, 0, 1, 0], "worse": [1, 0, 0, 0]}
    tokens = {"base": [100, 120, 80, 100], "short": [50, 40, 60, 50], "worse": [60, 60, 60, 60]}
    base, short, worse = pareto(right, tokens, list("abcd"))
    assert (base.dominated_by, short.dominated_by) == (("short",), ())
    assert worse.dominated_by == ("short",)
    assert base.accuracy == clustered([1, 0, 1, 0], list("abcd"))
    assert base.tokens.value == 100
    assert base.tokens.low < 100 < base.tokens.high
    # whatever is drawn, `short` is as accurate as `base` and shorter on each question
    assert (base.kept_frac, short.kept_frac) == (0, 1)


def test_equal_policies_do_not_dominate_each_other():
    first, second = pareto({"a": [1, 0], "b": [1, 0]}, {"a": [5, 9], "b": [5, 9]}, [0, 1])
    assert first.is_kept
    assert second.is_kept
    assert (first.kept_frac, second.kept_frac) == (1, 1)
    (alone,) = pareto({"a": [0.0]}, {"a": [3.0]}, ["x"])
    assert alone.is_kept
    assert alone.tokens.low is None  # one question shows no spread
    with pytest.raises(ValueError, match="needs a policy and a question"):
        pareto({"a": []}, {"a": []}, [])


def test_bootstrap_matches_plain_resampling_of_clusters():
    draw = random.Random(1)
    clusters = [number // 2 for number in range(12)]
    right = {name: [float(draw.random() < 0.5) for _ in clusters] for name in "abc"}
    tokens = {name: [draw.uniform(10, 30) for _ in clusters] for name in "abc"}
    draws, kept = 500, Counter[str]()
    counts = np.random.default_rng(7).multinomial(6, [1 / 6] * 6, draws)
    for times in counts:
        chosen = [q for q, cluster in enumerate(clusters) for _ in range(times[cluster])]
        means = [
            [sum(of[n][q] for q in chosen) / len(chosen) for n in "abc"] for of in (right, tokens)
        ]
        for name, row in zip("abc", loop(*means), strict=True):
            kept[name] += not any(row)
    points = pareto(right, tokens, clusters, draws=draws, seed=7)
    assert [point.kept_frac for point in points] == pytest.approx([kept[n] / draws for n in "abc"])
    assert any(0 < point.kept_frac < 1 for point in points)
