"""Objectives against worked numbers, loops over the papers' formulas, and what must not matter.

Broken on purpose, one at a time, each seen red:
    the division by the length left out of SequenceMeanOfTokenMeans -> golden, float64 loop, ratio 1
    minimum made a maximum, or the two clips exchanged -> golden, loop, clip bites
    1 - clip_low made 1 / (1 + clip_low) -> clip bites, loop
    clipped_high without its condition on the advantage -> statistics golden, clip bites
    the sum of log-ratios for their mean in SequenceMeanRatio -> golden, loop, identities
    LUSPO with GSPO's aggregation -> golden, width mean, identities
    a published default changed (LUSPO 2.5e-3, DAPO 0.28) -> golden, loop
    k2 without its half, k3 with the other sign, the coefficient left out -> KL golden, golden
    a regularizer's own aggregation ignored, in its sum or in its count -> loop with KL
    a check in a constructor left out -> refuses
"""

import json
import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from objective_cases import (
    CONSTANT_TOKENS,
    ORACLES,
    Row,
    assert_close,
    assert_same,
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
    stats_of,
)

from vlm_rl.objectives import (
    DAPO,
    GRPO,
    GSPO,
    KL,
    LUSPO,
    POLICY_TERM,
    Clipped,
    DrGRPO,
    Objective,
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
    TokenMean,
)

DISCOVERED = discover()
every_objective = pytest.mark.parametrize("cls", DISCOVERED, ids=lambda cls: cls.__name__)
UNIT = (1.0, -1.0, -1.0, 1.0)
CENTERED = (0.5, -0.5, -0.5, 0.5)
NORMALIZED = tuple(a * 0.5 / (math.sqrt(1 / 3) + 1e-6) for a in UNIT)  # rewards 1, 0, 0, 1


class Golden(NamedTuple):
    objective: Objective
    advantages: tuple[float, ...]
    loss: float
    grad: list[list[float]]  # d loss / d logprobs


# On `fixture`, where L = 2, 4, 3, 1 and exp(mean log-ratio) = 1.221403, 0.975310, 0.957592,
# 0.818731. Token losses with clip 0.2, unit advantages: -1.105171 -1.2 | 0.951229 1.284025 0.8
# 1.105171 | 1.020201 0.8 1.161834 | -0.818731; a token at -1.2 or 0.8 is cut off. So GRPO is
# (-2.305171 / 2 + 4.140425 / 4 + 2.982035 / 3 - 0.818731) / 4, DAPO their sum / 10 with 1.28 for
# 1.2, Dr.GRPO their sum / 8 / 4. The gradient of a token in the band is its loss by its weight.
# GSPO with 0.1: (-1.1 + 0.975310 + 0.957592 - 0.818731) / 4, LUSPO each times L, the first and
# nothing else cut off; with the published bands only the fourth sequence is inside.
# k3 with d = log_ratio - 0.1 adds 0.1 (exp(-d) + d - 1), its gradient 0.1 (1 - exp(-d)).
GOLDEN = {
    "grpo eps.2 A=unit": Golden(
        GRPO(),
        UNIT,
        0.014451,
        [[-0.138146, 0], [0.059452, 0.080252, 0, 0.069073], [0.085017, 0, 0.09682], [-0.204683]],
    ),
    "grpo eps.2 A=grpo(sample std,1e-6)": Golden(
        GRPO(),
        NORMALIZED,
        0.012514,
        [[-0.119638, 0], [0.051487, 0.0695, 0, 0.059819], [0.073627, 0, 0.083848], [-0.17726]],
    ),
    "dapo .2/.28 token-mean A=unit": Golden(
        DAPO(),
        UNIT,
        0.391856,
        [[-0.110517, 0], [0.095123, 0.128403, 0, 0.110517], [0.10202, 0, 0.116183], [-0.081873]],
    ),
    "dr_grpo eps.2 Lmax=8 A=R-mean": Golden(
        DrGRPO(8),
        CENTERED,
        0.062477,
        [[-0.017268, 0], [0.014863, 0.020063, 0, 0.017268], [0.015941, 0, 0.018154], [-0.012793]],
    ),
    "dr_grpo eps.2 Lmax=8 A=unit": Golden(
        DrGRPO(8),
        UNIT,
        0.124955,
        [[-0.034537, 0], [0.029726, 0.040126, 0, 0.034537], [0.031881, 0, 0.036307], [-0.025585]],
    ),
    "gspo 3e-4/4e-4 A=unit": Golden(
        GSPO(), UNIT, 0.045067, [[0, 0], [0, 0, 0, 0], [0, 0, 0], [-0.204683]]
    ),
    "gspo .1/.1 A=unit": Golden(
        GSPO(0.1, 0.1), UNIT, 0.003543, [[0, 0], [0.060957] * 4, [0.079799] * 3, [-0.204683]]
    ),
    "luspo 2e-3/2.5e-3 A=unit": Golden(
        LUSPO(), UNIT, 1.040567, [[0, 0], [0, 0, 0, 0], [0, 0, 0], [-0.204683]]
    ),
    "luspo .1/.1 A=unit": Golden(
        LUSPO(0.1, 0.1), UNIT, 0.938821, [[0, 0], [0.243827] * 4, [0.239398] * 3, [-0.204683]]
    ),
    "luspo .1/.1 as token-sum": Golden(
        Objective(GSPO().ratio, Clipped(0.1, 0.1), SequenceMeanOfTokenSums()),
        UNIT,
        0.938821,
        [[0, 0], [0.243827] * 4, [0.239398] * 3, [-0.204683]],
    ),
    "luspo .1/.1 + 0.1*k3 correct": Golden(
        LUSPO(0.1, 0.1, [KL(0.1, "k3")]),
        UNIT,
        0.947226,
        [
            [0, 0.004532],
            [0.239782, 0.24731, 0.227609, 0.243827],
            [0.237316, 0.227102, 0.240617],
            [-0.213429],
        ],
    ),
    "grpo eps.2 A=unit + .1*k3": Golden(
        GRPO(regularizers=[KL(0.1)]),
        UNIT,
        0.017804,
        [
            [-0.138146, 0.002266],
            [0.05844, 0.081122, -0.004055, 0.069073],
            [0.084323, -0.004099, 0.097226],
            [-0.213429],
        ],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_objective_golden(name):
    golden = GOLDEN[name]
    result = evaluate(golden.objective, fixture(golden.advantages))
    assert result.loss == pytest.approx(golden.loss, abs=1e-6)
    assert_close(result.grad, golden.grad, 1e-6)


def test_golden_numbers_are_the_shared_ones(shared):
    worked = json.loads((shared / "reference" / "worked_examples.json").read_text())
    lengths = [int(length) for length in worked["fixture"]["L"]]
    for name, golden in GOLDEN.items():
        assert golden.loss == worked[name]["loss"]
        grad = zip(worked[name]["grad"], lengths, strict=True)
        assert golden.grad == [row[:length] for row, length in grad]
    assert worked["gspo_token .1/.1 A=unit"] == {
        key: worked["gspo .1/.1 A=unit"][key] for key in ("loss", "grad")
    }


def test_luspo_with_kl_is_neither_of_the_width_mean_forms():
    # mean over the padded width times L: masks the KL but not the policy term (0.945455), or both
    objective = LUSPO(0.1, 0.1, [KL(0.1)])
    rows = fixture(UNIT)
    for extra in (0, 20):
        loss = evaluate(objective, rows, extra=extra).loss
        assert abs(loss - 0.945455) > 1e-3
        assert abs(loss - 1.194419) > 1e-3
        assert loss == pytest.approx(0.947226, abs=1e-6)


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
    # the bound is that of the differences
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
        assert 0 < sum(each[f"policy/clip_frac_{end}"][0] for each in statistics) < tokens / 2


def test_statistics_golden():
    # of 10 tokens one is above 1.2 with A > 0, two below 0.8 with A < 0; the log-ratios add up to
    # -0.03; k3 as in GOLDEN, entropy 0.5 everywhere
    sums = evaluate(GRPO(regularizers=[KL(0.1)]), fixture(UNIT)).statistics
    ratios = [math.exp(value + 1) for row in fixture(UNIT) for value in row.logprobs]
    assert {count for _, count in sums.values()} == {10}
    assert {name: value for name, (value, _) in sums.items()} == pytest.approx(
        {
            "policy/ratio": sum(ratios),
            "policy/clip_frac_low": 2,
            "policy/clip_frac_high": 1,
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


@every_objective
@pytest.mark.parametrize("advantage", [1.5, -0.5])
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("outside", [False, True])
def test_clip_bites_exactly_outside_the_band(cls, advantage, end, outside):
    objective = build(cls)
    if not isinstance(objective.surrogate, Clipped):
        pytest.skip(f"{cls.__name__} has no clipped band")
    edge = {"low": 1 - objective.surrogate.clip_low, "high": 1 + objective.surrogate.clip_high}[end]
    away = 1e-9 if outside == (end == "high") else -1e-9
    # one ratio for the whole row, so that sequence and token ratios agree
    new = [math.log(edge + away) - 1] * 3
    result = evaluate(objective, [Row(new, [-1.0] * 3, new, new, new, [0] * 3, advantage, 0)])
    cut = outside and (advantage > 0) == (end == "high")
    assert [value == 0 for value in result.grad[0]] == [cut] * 3
    for side in ("low", "high"):
        expected = 3 if cut and side == end else 0
        assert result.statistics[f"policy/clip_frac_{side}"] == (expected, 3)


def on_policy(seed: int) -> list[Row]:
    return [replace(row, logprobs=row.old) for row in random_rows(seed)]


def times(factor: float, grad: list[list[float]]) -> list[list[float]]:
    return [[factor * value for value in row] for row in grad]


@pytest.mark.parametrize(
    ("objective", "weight"),
    [  # of A grad log pi at ratio 1: L the row's length, N the rows with tokens, S all tokens
        (GRPO(), lambda L, N, S: 1 / (N * L)),
        (GSPO(), lambda L, N, S: 1 / (N * L)),
        (DAPO(), lambda L, N, S: 1 / S),
        (DrGRPO(8), lambda L, N, S: 1 / (N * 8)),
        (LUSPO(), lambda L, N, S: 1 / N),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ratio_one_is_the_weighted_policy_gradient(objective, weight):
    rows = on_policy(7)
    sequences, tokens = sum(len(row) > 0 for row in rows), sum(map(len, rows))
    expected = [
        [-row.advantage * weight(len(row), sequences, tokens)] * len(row) if len(row) else []
        for row in rows
    ]
    assert_close(evaluate(objective, rows).grad, expected)


def test_identities_between_objectives_at_ratio_one():
    rows = on_policy(8)
    assert_close(evaluate(GSPO(), rows).grad, evaluate(GRPO(), rows).grad)
    assert_close(evaluate(LUSPO(), rows).grad, times(8, evaluate(DrGRPO(8), rows).grad))


def cut(row: Row, length: int) -> Row:
    per_token = {name: getattr(row, name)[:length] for name in ("logprobs", "old", "ref")}
    return replace(row, entropy=row.entropy[:length], **per_token)


def test_identities_between_objectives_of_equal_lengths():
    rows = [cut(row, 3) for row in random_rows(9) if len(row) >= 3]
    assert len(rows) >= 3
    assert_same(evaluate(GRPO(0.2, 0.28), rows), evaluate(DAPO(0.2, 0.28), rows))
    luspo, gspo = evaluate(LUSPO(2e-3, 2e-3), rows), evaluate(GSPO(2e-3, 2e-3), rows)
    assert luspo.loss == pytest.approx(3 * gspo.loss, rel=1e-12)
    assert_close(luspo.grad, times(3, gspo.grad))


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
        (lambda: GRPO(clip_low=0.0), r"clip_low must be in \(0, 1\), got 0.0"),
        (lambda: GSPO(clip_low=3.0), r"clip_low must be in \(0, 1\), got 3.0"),
        (lambda: LUSPO(clip_low=math.nan), r"clip_low must be in \(0, 1\), got nan"),
        (lambda: DAPO(clip_high=-0.2), "clip_high must be > 0, got -0.2"),
        (lambda: GSPO(clip_high=math.nan), "clip_high must be > 0, got nan"),
        (lambda: DrGRPO(0), "constant_tokens must be >= 1, got 0"),
        (lambda: KL(0.0), "kl_coef must be > 0, got 0.0; .* leave the term out"),
        (lambda: KL(math.nan), "kl_coef must be > 0, got nan"),
        (lambda: GRPO(regularizers=[KL(0.1), KL(0.2, "k2")]), "regularizers must differ"),
    ],
)
def test_constructor_refuses(construct, message):
    with pytest.raises(ValueError, match=message) as refusal:
        construct()
    assert "\n" not in str(refusal.value)
