"""Objectives against loops over the papers' formulas, statistics, bands, and refused arguments.

Mutations, each seen red:
    float32 lengths in the dual clip of LengthBand -> loop
    1 - clip_low changed to 1 / (1 + clip_low) -> clip bites, loop
    clipped_high without its condition on the advantage -> statistics golden, clip bites
    a published default changed (LUSPO 2.5e-3, DAPO 0.28) -> loop
    the detach of a weight left out (CISPO, VESPO, DPPO), or that of a prefix sum (CTPO) -> loop
    k2 without its half, k3 with the other sign, the coefficient left out -> KL golden, loop
    a regularizer's own aggregation ignored, in its sum or in its count -> loop with KL
    a check in a constructor left out -> refuses
"""

import math
from dataclasses import replace

import pytest
import torch

from tests.support.objective_cases import (
    CONSTANT_TOKENS,
    ORACLES,
    Row,
    assert_close,
    batch_of,
    build,
    discover,
    evaluate,
    fixture,
    kl_term,
    numeric_gradient,
    over_constant,
    over_sequence_sums,
    over_sequences,
    over_tokens,
    random_rows,
    sequences_of,
    stats_of,
)
from vlm_rl.objectives import (
    CISPO,
    CTPO,
    DAPO,
    DPPO,
    DPPOKL,
    FSPO,
    GMPO,
    GRPO,
    GSPO,
    KL,
    LUSPO,
    POLICY_TERM,
    RLOOIS,
    SAPO,
    VESPO,
    DrGRPO,
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
    TokenMean,
)

DISCOVERED = discover()
every_objective = pytest.mark.parametrize("cls", DISCOVERED, ids=lambda cls: cls.__name__)
UNIT = (1.0, -1.0, -1.0, 1.0)


@pytest.mark.parametrize(
    ("estimator", "values", "gradients"),
    [  # with d = log pi - log pi_ref = 0, 0.1, -0.3, 1
        ("k1", [0, 0.1, -0.3, 1], [1, 1, 1, 1]),
        ("k2", [0, 0.005, 0.045, 0.5], [0, 0.1, -0.3, 1]),
        ("k3", [0, 0.004837, 0.049859, 0.367879], [0, 0.095163, -0.349859, 0.632121]),
    ],
)
def test_kl_golden(estimator, values, gradients):
    row = Row([-1.0, -0.9, -1.3, 0.0], *[[-1.0] * 4] * 3, [0.0] * 4, [0] * 4, 1.0, 0)
    stats, batch = stats_of([row]), batch_of([row])
    kl = KL(1.0, estimator)(stats, batch, {})
    assert kl.tolist()[0] == pytest.approx(values, abs=1e-6)
    (gradient,) = torch.autograd.grad(kl.sum(), stats.logprobs)
    assert gradient.tolist()[0] == pytest.approx(gradients, abs=1e-6)


def test_every_objective_has_an_oracle():
    assert {cls.__name__ for cls in DISCOVERED} == set(ORACLES)
    assert len(DISCOVERED) >= 5


OWN = {  # aggregations that a regularizer may bring, and their loops
    "shared": (None, None),
    "token_mean": (TokenMean(), over_tokens),
    "sequence_means": (SequenceMeanOfTokenMeans(), over_sequences),
    "sequence_sums": (SequenceMeanOfTokenSums(), over_sequence_sums),
    "constant": (SequenceMeanOfScaledSums(CONSTANT_TOKENS), over_constant),
}


@every_objective
@pytest.mark.parametrize("seed", range(4))
def test_objective_matches_float64_loop(cls, seed):
    rows = random_rows(seed)
    oracle = ORACLES[cls.__name__].policy_term
    result = evaluate(build(cls), rows)
    assert result.loss == pytest.approx(oracle([row for row in rows if len(row)]), rel=1e-12)
    # the tolerance is that of the finite differences
    assert_close(result.grad, numeric_gradient(oracle, rows), 1e-8)


@every_objective
@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_objective_with_kl_matches_float64_loop(cls, own, estimator):
    rows = random_rows(5)
    policy_term, average = ORACLES[cls.__name__].policy_term, ORACLES[cls.__name__].average
    aggregation, own_average = OWN[own]

    def oracle(rows):
        return policy_term(rows) + 0.3 * kl_term(rows, estimator, own_average or average)

    result = evaluate(build(cls, regularizers=[KL(0.3, estimator, aggregation)]), rows)
    assert result.loss == pytest.approx(oracle([row for row in rows if len(row)]), rel=1e-12)
    assert_close(result.grad, numeric_gradient(oracle, rows), 1e-8)


@every_objective
def test_random_rows_reach_both_ends_of_the_band_and_its_inside(cls):
    statistics = [evaluate(build(cls), random_rows(seed)).statistics for seed in range(4)]
    tokens = sum(count for _, count in (each["policy/ratio"] for each in statistics))
    for end in ("low", "high"):
        cut = sum(each[f"policy/clip_frac_{end}"][0] for each in statistics)
        assert 0 < cut < tokens / 2 if ORACLES[cls.__name__].band else cut == 0


def test_statistics_golden():
    # of 10 tokens one is above 1.2 with A > 0, two are below 0.8 with A < 0; the log-ratios sum to
    # -0.03; k3 as in GOLDEN, entropy 0.5 everywhere
    sums = evaluate(GRPO(regularizers=[KL(0.1)]), fixture(UNIT)).statistics
    ratios = [math.exp(value + 1) for row in fixture(UNIT) for value in row.logprobs]
    assert {count for _, count in sums.values()} == {10}
    assert {name: value for name, (value, _) in sums.items()} == pytest.approx(
        {
            "policy/ratio": sum(ratios),
            "policy/clip_frac_low": 2,
            "policy/clip_frac_high": 1,
            "policy/clip_frac_dual": 0,
            "policy/old_kl": 0.03,
            "policy/kl": kl_term(fixture(UNIT), "k3", over_sequence_sums) * 4,
            "policy/entropy": 5,
        }
    )


@every_objective
def test_zero_advantage_gives_zero_gradient(cls):
    rows = [replace(row, advantage=0.0) for row in random_rows(0)]
    result = evaluate(build(cls), rows)
    assert result.loss == 0
    assert all(value == 0 for row in result.grad for value in row)
    with_kl = evaluate(build(cls, regularizers=[KL(0.1)]), rows)
    assert any(value != 0 for row in with_kl.grad for value in row)


@pytest.mark.parametrize(
    "name", [name for name, oracle in ORACLES.items() if oracle.band is not None]
)
@pytest.mark.parametrize("advantage", [1.5, -0.5])
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("outside", [False, True])
def test_clip_bites_exactly_outside_the_band(name, advantage, end, outside):
    # one token, for which all ratios agree
    (cls,) = (cls for cls in DISCOVERED if cls.__name__ == name)
    band = ORACLES[name].band
    edge = band[0] if end == "low" else band[1]
    away = 1e-9 if outside == (end == "high") else -1e-9
    new = [edge + away - 1]
    row = Row(new, [-1.0], new, new, new, [0], advantage, 0)
    objective = build(cls, **beyond_the_dual_clip(name))
    result = evaluate(objective, [row])
    cut = outside and (advantage > 0) == (end == "high")
    assert (result.grad[0][0] == 0) == cut
    for side in ("low", "high"):
        expected = int(cut and side == end)
        assert result.statistics[f"policy/clip_frac_{side}"] == (expected, 1)
    assert sequences_of(objective, [[row]]).inside.item() == (not outside)


def beyond_the_dual_clip(name: str) -> dict[str, float]:
    """Widen the dual clip of CTPO, which ends with the band and would cut there with A < 0."""
    return {"dual_clip_log": 1.0} if name == "CTPO" else {}


def test_terms_need_what_their_regularizers_need():
    assert not GRPO().needs_reference
    assert GRPO(regularizers=[KL(0.1)]).needs_reference
    assert set(GSPO(regularizers=[KL(0.1)]).normalizers(batch_of(random_rows(0)))) == {
        POLICY_TERM,
        "kl",
    }


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: GRPO(clip_low=0.0), r"clip_low must be in \(0, 1\], got 0.0"),
        (lambda: GSPO(clip_low=3.0), r"clip_low must be in \(0, 1\], got 3.0"),
        (lambda: LUSPO(clip_low=math.nan), r"clip_low must be in \(0, 1\], got nan"),
        (lambda: DAPO(clip_high=-0.2), "clip_high must be > 0, got -0.2"),
        (lambda: GSPO(clip_high=math.nan), "clip_high must be > 0, got nan"),
        (lambda: GRPO(dual_clip=1.1), "dual_clip must be above 1 .* = 1.2, got 1.1"),
        (lambda: RLOOIS(dual_clip=math.nan), "dual_clip must be above .*, got nan"),
        (lambda: FSPO(0.0, 0.1, 1.0), "clip_low_log must be > 0, got 0.0"),
        (lambda: FSPO(0.1, math.nan, 1.0), "clip_high_log must be > 0, got nan"),
        (lambda: FSPO(0.1, 0.1, 0.1), "dual_clip_log must be above clip_high_log = 0.1, got 0.1"),
        (lambda: FSPO(0.1, 0.1, 1.0, "centre"), "ema_rate is None with drift 'centre'"),
        (lambda: FSPO(0.1, 0.1, 1.0, "none", 0.1), "ema_rate is 0.1 with drift 'none'"),
        (lambda: FSPO(0.1, 0.1, 1.0, "widen", 1.5), r"ema_rate must be in \(0, 1\], got 1.5"),
        (lambda: CISPO(clip_low=1.0), r"clip_low must be in \[0, 1\), got 1.0"),
        (lambda: CISPO(clip_high=0.0), "clip_high must be > 0, got 0.0"),
        (lambda: CTPO(clip_low_log=-0.1), "clip_low_log must be > 0, got -0.1"),
        (lambda: CTPO(dual_clip_log=0.04), "dual_clip_log must be at least .* 0.05, got 0.04"),
        (lambda: CTPO(power=-1.0), "power must be >= 0, got -1.0"),
        (lambda: DPPO(9, 1.0), r"max_shift must be in \(0, 1\), got 1.0"),
        (lambda: DPPOKL(9, 0.0), "max_kl must be > 0, got 0.0"),
        (lambda: DPPO(9, 0.1, 1.0), "max_ratio must be > 1, got 1.0"),
        (lambda: GMPO(clip_high_log=0.0), "clip_high_log must be > 0, got 0.0"),
        (lambda: SAPO(temperature_negative=0.0), "temperature_negative must be > 0, got 0.0"),
        (lambda: VESPO(decay_positive=0.0), "decay_positive must be > 0, got 0.0"),
        (lambda: DrGRPO(0), "constant_tokens must be >= 1, got 0"),
        (lambda: KL(0.0), "kl_coef must be > 0, got 0.0; .* leave the term out"),
        (lambda: KL(math.nan), "kl_coef must be > 0, got nan"),
        (
            lambda: GRPO(regularizers=[KL(0.1), KL(0.2, "k2")]),
            "regularizers and token_weights must differ",
        ),
    ],
)
def test_constructor_refuses(construct, message):
    with pytest.raises(ValueError, match=message) as refusal:
        construct()
    assert "\n" not in str(refusal.value)
