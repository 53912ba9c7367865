"""Drift of the engine's log-probabilities: loops, a golden by hand, splits, padding, faults.

Mutations, each seen red:
    d in float32 -> float32 is subtracted in float64; the sign of d flipped -> golden
    a difference that is not finite kept as it is, or set to 0 or +inf -> it is shown
    |d| or k3 with the wrong sign, the largest d instead of the largest |d| -> loop
    perplexity over tokens instead of rows, or by a row's sum -> loop; by math.exp -> beyond floats
    a row's weight by its mean; ess over tokens, or not squared -> loop; no cap above -> weights are
        capped; no cap below -> not finite is shown
    rows without tokens counted -> golden; images and text swapped, or assigned by place -> loop
    values read from the padding -> padding does not matter
    deciles from the longest, of equally many tokens, or cut from the front -> loop
    ties against row order -> deciles are equally many rows
    names only for the sets with rows -> names do not depend on the batch
    a maximum of 0 for a set without rows, or any maximum kept for it -> nothing trained
    raw moments left in the result -> other metrics stay as they are
    worst by sum, the last of equals, its uid by row -> worst row; worst of no rows -> nothing
        trained
    an alarm at the limit itself, or without a worst row -> alarm
"""

import math
import random
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tests.support.objective_cases import Row, add_up, batch_of, text_prompt
from vlm_rl.metrics.drift import SETS, Drift, Worst, alarm, measure, measures
from vlm_rl.records import Batch, Prompt

ABOUT = {"rel": 1e-12, "abs": 1e-12}


def row(differences: list[float], prompt: int = 0, sampling: float = -2.0) -> Row:
    """Return a completion whose old_logprobs exceed the engine's by `differences`."""
    nothing = [0.0] * len(differences)
    old = [sampling + value for value in differences]
    engine = [sampling] * len(differences)
    return Row(nothing, old, nothing, engine, nothing, [0] * len(differences), 0.0, prompt)


def random_rows(seed: int, num_prompts: int = 8, group_size: int = 4) -> list[Row]:
    """Return rows of repeated lengths and unequal drift; every seventh has no tokens."""
    rng = random.Random(seed)
    rows = []
    for index in range(num_prompts * group_size):
        length = 0 if index % 7 == 3 else rng.randint(1, 9)
        scale = 10 ** rng.uniform(-4, 0.3)
        differences = [rng.gauss(0.1, scale) for _ in range(length)]
        rows.append(row(differences, index // group_size, -rng.expovariate(1)))
    return rows


def image_prompt(uid: str) -> Prompt:
    """Return a prompt with one image."""
    image = Image.new("RGB", (4, 4))
    grid = torch.tensor([[1, 2, 2]])
    pixels = torch.zeros(4, 12)
    return replace(text_prompt(uid), pixel_values=pixels, grid_thw=grid, images=(image,))


def batch(rows: list[Row], *, fill: float = 0.0, extra: int = 0) -> Batch:
    """Return a batch whose prompts of odd number have an image."""
    made = batch_of(rows, extra, fill)
    prompts = [image_prompt(p.uid) if int(p.uid) % 2 else p for p in made.prompts]
    return replace(made, prompts=tuple(prompts))


def drift_of(batch: Batch) -> Drift:
    """Measure on one rank, which has every prompt of the step."""
    return measure(batch, torch.arange(len(batch.prompts)))


def means(*drifts: Drift) -> dict[str, float]:
    """Divide sums by counts, as a training step reduces them."""
    total = add_up([drift.sums for drift in drifts])
    return {name: float(s.sum / s.count) for name, s in total.items() if s.count > 0}


def measured(rows: list[Row]) -> dict[str, float]:
    """Return all measures, maxima included."""
    drift = drift_of(batch(rows))
    return measures(means(drift) | {name: float(m) for name, m in drift.maxima.items()})


def share(log_weights: list[float]) -> float:
    weights = [math.exp(min(max(value, -20.0), 20.0)) for value in log_weights]
    return sum(weights) ** 2 / (len(weights) * sum(weight**2 for weight in weights))


def loop(rows: list[Row]) -> dict[str, float]:
    """Compute the measures of a set of rows by their definitions."""
    by_row = [[o - s for o, s in zip(r.old, r.sampling, strict=True)] for r in rows]
    tokens = [value for values in by_row for value in values]
    gaps = [-sum(values) / len(values) for values in by_row]
    return {
        "abs_mean": sum(map(abs, tokens)) / len(tokens),
        "abs_max": max(map(abs, tokens)),
        "k3": sum(math.exp(value) - 1 - value for value in tokens) / len(tokens),
        "perplexity_ratio": math.exp(sum(gaps) / len(gaps)),
        "ess": share([sum(values) for values in by_row]),
        "token_ess": share(tokens),
    }


def loop_by_set(rows: list[Row]) -> dict[str, float]:
    rows = [r for r in rows if len(r)]
    sets = defaultdict(list, {"drift/": rows})
    for r in rows:
        sets["drift/image/" if r.prompt % 2 else "drift/text/"].append(r)
    for rank, r in enumerate(sorted(rows, key=len)):
        sets[f"drift/length_decile_{1 + rank * 10 // len(rows):02}/"].append(r)
    return {prefix + name: v for prefix, part in sets.items() for name, v in loop(part).items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_prompts", "group_size"), [(8, 4), (1, 2), (2, 3), (7, 5)])
def test_measures_match_float64_loop(seed, num_prompts, group_size):
    rows = random_rows(seed, num_prompts, group_size)
    assert measured(rows) == pytest.approx(loop_by_set(rows), **ABOUT)


def test_float32_is_subtracted_in_float64():
    rows = random_rows(0)
    made = batch(rows)
    rounded = replace(
        made,
        old_logprobs=made.old_logprobs.float(),
        sampling_logprobs=made.sampling_logprobs.float(),
    )
    pairs = zip(
        rows, rounded.old_logprobs.tolist(), rounded.sampling_logprobs.tolist(), strict=True
    )
    exact = [replace(r, old=old[: len(r)], sampling=engine[: len(r)]) for r, old, engine in pairs]
    actual = measures(means(drift_of(rounded)))
    expected = loop_by_set(exact)
    assert actual == pytest.approx({name: expected[name] for name in actual}, **ABOUT)


def test_measures_golden():
    # d is (ln 2, -ln 2) and (ln 3). |d|: (2 ln 2 + ln 3) / 3 = 0.828302. k3: exp(d) are 2, 1/2 and
    # 3, (5.5 - 3 - ln 3) / 3 = 0.467129. Mean d by row 0 and ln 3: the policy's perplexity is
    # exp(-ln 3 / 2) = 0.577350 of the engine's. Weights of rows 1 and 3: 16 / (2 * 10) = 0.8; of
    # tokens 2, 1/2, 3: 5.5^2 / (3 * 13.25) = 0.761006
    rows = [row([math.log(2), -math.log(2)], 0), row([], 1), row([math.log(3)], 2)]
    actual = measured(rows)
    expected = {
        "abs_mean": 0.828302,
        "abs_max": 1.098612,
        "k3": 0.467129,
        "perplexity_ratio": 0.577350,
        "ess": 0.8,
        "token_ess": 0.761006,
    }
    for name, value in expected.items():
        assert actual[f"drift/{name}"] == pytest.approx(value, abs=1e-6)
        assert actual[f"drift/text/{name}"] == actual[f"drift/{name}"]
    # the shorter row is in the first half, the longer in the second
    assert actual["drift/length_decile_01/abs_mean"] == pytest.approx(math.log(3))
    assert actual["drift/length_decile_06/abs_mean"] == pytest.approx(math.log(2))
    assert len(actual) == 4 * 6


def test_deciles_are_equally_many_rows_and_ties_go_by_row_order():
    # 23 rows: deciles from 0, 2.3, 4.6, 6.9, ... rounded up hold 3, 2, 2, 3, 2, 2, 3, 2, 2, 2
    rows = [row([0.01 * index] * 5) for index in range(23)]
    sums = drift_of(batch(rows)).sums
    deciles = [f"drift/length_decile_{decile:02}/" for decile in range(1, 11)]
    counts = [int(sums[f"{prefix}weight"].count) for prefix in deciles]
    assert counts == [3, 2, 2, 3, 2, 2, 3, 2, 2, 2]
    actual = measured(rows)
    assert actual[f"{deciles[0]}abs_mean"] == pytest.approx(0.01)
    assert actual[f"{deciles[9]}abs_mean"] == pytest.approx(0.215)


def test_weights_are_capped():
    # exp(20) beside exp(0): only one half is left, (1 + e^20)^2 / (2 (1 + e^40))
    for difference in (20.0, 400.0):
        actual = measured([row([difference]), row([0.0])])
        assert actual["drift/ess"] == pytest.approx(0.5 + math.exp(-20), rel=1e-12)
        assert actual["drift/token_ess"] == actual["drift/ess"]


def test_no_drift_is_nothing_and_all_of_the_sample():
    actual = measured([row([0.0] * 3, prompt) for prompt in range(4)])
    expected = {"abs_mean": 0, "abs_max": 0, "k3": 0, "perplexity_ratio": 1, "ess": 1}
    for prefix in ("drift/", "drift/image/", "drift/text/", "drift/length_decile_01/"):
        for name, value in (expected | {"token_ess": 1}).items():
            assert actual[prefix + name] == value


@pytest.mark.parametrize("seed", range(3))
def test_sums_of_parts_are_those_of_the_whole(seed):
    rows = random_rows(seed)
    parts = [drift_of(batch(part)) for part in (rows[:12], rows[12:16], rows[16:])]
    whole = means(drift_of(batch(rows)))
    joined = means(*parts)
    for prefix in SETS[:3]:
        names = [name for name in whole if name.rpartition("/")[0] == prefix[:-1]]
        assert len(names) == 7
        for name in names:
            assert joined[name] == pytest.approx(whole[name], **ABOUT)
        largest = max(float(part.maxima[f"{prefix}abs_max"]) for part in parts)
        assert largest == float(drift_of(batch(rows)).maxima[f"{prefix}abs_max"])


def test_names_do_not_depend_on_the_batch():
    # ranks stack their sums by position
    everything = drift_of(batch(random_rows(0)))
    for rows in ([row([0.1], 0)], [row([0.1], 1)], [row([], 0)]):
        drift = drift_of(batch(rows))
        assert list(drift.sums) == list(everything.sums)
        assert list(drift.maxima) == list(everything.maxima)


@pytest.mark.parametrize("fill", [math.nan, math.inf, 1e30])
def test_padding_does_not_matter(fill):
    rows = random_rows(1)
    plain, padded = drift_of(batch(rows)), drift_of(batch(rows, fill=fill, extra=3))
    assert means(padded) == means(plain)
    assert padded.maxima == plain.maxima
    assert padded.worst == plain.worst


def test_row_that_is_left_out_counts_nowhere():
    rows = random_rows(2, 2, 5)
    made = batch([*rows, row([50.0, math.nan], 2)])
    mask = made.completion_mask.clone()
    mask[-1] = False
    drift = drift_of(replace(made, completion_mask=mask))
    assert means(drift) == means(drift_of(batch(rows)))
    assert drift.maxima == drift_of(batch(rows)).maxima


def test_order_of_rows_does_not_matter_but_to_ties():
    rng = random.Random(0)
    lengths = rng.sample(range(1, 60), 24)
    rows = [row([rng.gauss(0, 0.3) for _ in range(n)], i // 4) for i, n in enumerate(lengths)]
    again = sorted(rng.sample(rows, len(rows)), key=lambda r: r.prompt)
    assert again != rows
    assert measured(again) == pytest.approx(measured(rows), **ABOUT)
    assert drift_of(batch(again)).worst.tokens == drift_of(batch(rows)).worst.tokens

    tied = random_rows(3)
    again = sorted(rng.sample(tied, len(tied)), key=lambda r: r.prompt)
    before, after = measured(tied), measured(again)
    for name in (name for name in before if "decile" not in name):
        assert after[name] == pytest.approx(before[name], **ABOUT)


def test_worst_row_is_the_one_with_the_largest_mean():
    # the second row has the largest single difference, the first the largest sum
    rows = [row([0.5] * 6, 0), row([1.5, 0.0, 0.0], 0), row([0.0, -1.4], 5), row([0.6], 7)]
    worst = drift_of(batch(rows)).worst
    assert worst == Worst("5", pytest.approx(0.7), 2)
    assert drift_of(batch([row([0.1], 0), row([0.7], 2), row([0.7], 4)])).worst.uid == "2"


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_difference_that_is_not_finite_is_shown(fault):
    rows = [row([3.0], 0), row([0.1, fault, 0.1], 1), row([0.1], 2)]
    drift, actual = drift_of(batch(rows)), measured(rows)
    assert drift.worst == Worst("1", math.inf, 3)
    for prefix in ("drift/", "drift/image/"):
        for name in ("abs_mean", "abs_max", "k3", "perplexity_ratio"):
            assert actual[prefix + name] == math.inf
    for name in ("drift/ess", "drift/token_ess"):
        assert 0 < actual[name] < 1
    assert actual["drift/text/abs_mean"] == pytest.approx(1.55)


def test_difference_beyond_floats_is_inf():
    actual = measured([row([1000.0, -3000.0])])
    assert actual["drift/k3"] == math.inf
    assert actual["drift/perplexity_ratio"] == math.inf


@pytest.mark.parametrize("rows", [[row([], 0), row([], 1)], []])
def test_nothing_trained_measures_nothing(rows):
    drift = drift_of(batch(rows))
    assert drift.worst is None
    assert set(map(float, drift.maxima.values())) == {-math.inf}
    assert measured(rows) == {}


def test_other_metrics_stay_as_they_are():
    others = {"policy/loss": 0.5, "time/drift/weight": 3.0, "weight": 2.0}
    actual = measures(others | means(drift_of(batch([row([0.1])]))))
    names = ("abs_mean", "ess", "k3", "perplexity_ratio", "token_ess")
    prefixes = ("drift/", "drift/length_decile_01/", "drift/text/")
    assert actual.keys() - others.keys() == {p + name for p in prefixes for name in names}
    assert {name: actual[name] for name in others} == others
    assert measures(others) == others


def test_alarm_names_the_problem_and_the_way_out():
    line = alarm(Worst("geo-17", 0.31234, 512), 0.1)
    assert line == (
        "the engine's log-probabilities of a completion of problem 'geo-17' are 0.312 nats per "
        "token from the policy's, over 512 tokens; the limit is 0.1. Look at the engine's image "
        "handling, weights and sampler; drift_alarm raises the limit"
    )
    assert "are inf nats" in alarm(Worst("geo-17", math.inf, 1), 0.1)
    assert alarm(Worst("geo-17", 0.1, 512), 0.1) is None
    assert alarm(None, 0.0) is None
