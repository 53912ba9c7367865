"""Objectives against numbers worked out by hand.

Mutations, each seen red:
    the division by the length left out of SequenceMeanOfTokenMeans; the sum of log-ratios instead
        of their mean in SequenceMeanRatio; LUSPO with GSPO's aggregation
    minimum changed to maximum; the two clips swapped; a published default changed
    the 4 / tau or one tau of SAPO changed; e^decay left out of VESPO, its constants swapped
    CISPO's lower bound ignored; GMPO clipped after the mean; CTPO's positions from 0
    DPPO's condition on the advantage left out; EngineSequenceSumRatio without the mismatch
    a micro-batch counted by its rows in LocalTokenMean
"""

import json
import math
from typing import NamedTuple

import pytest

from tests.support.objective_cases import assert_close, evaluate, evaluate_parts, fixture
from vlm_rl.objectives import (
    BNPO,
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
    RLOO,
    RLOOIS,
    SAPO,
    VESPO,
    Clipped,
    DrGRPO,
    GSPOToken,
    Objective,
    SequenceMeanOfTokenSums,
)

UNIT = (1.0, -1.0, -1.0, 1.0)
CENTERED = (0.5, -0.5, -0.5, 0.5)
NORMALIZED = tuple(a * 0.5 / (math.sqrt(1 / 3) + 1e-6) for a in UNIT)  # rewards 1, 0, 0, 1
LEFT_OUT = tuple(a * 2 / 3 for a in UNIT)  # rewards minus the mean of the others


def fspo(drift: str = "none", mean_log_ratio: float = 0.0) -> FSPO:
    """Build FSPO with the band 0.15 sqrt(L) and a dual clip that is never reached."""
    objective = FSPO(0.15, 0.15, 10.0, drift, None if drift == "none" else 0.1)
    objective.load_state_dict({"surrogate": {"mean_log_ratio": mean_log_ratio}})
    return objective


class Golden(NamedTuple):
    objective: Objective
    advantages: tuple[float, ...]
    loss: float
    grad: list[list[float]]  # d loss / d logprobs


# On `fixture`, where L = 2, 4, 3, 1 and exp(mean log-ratio) = 1.221403, 0.975310, 0.957592,
# 0.818731. Token losses with clip 0.2, unit advantages: -1.105171 -1.2 | 0.951229 1.284025 0.8
# 1.105171 | 1.020201 0.8 1.161834 | -0.818731; a token at -1.2 or 0.8 is cut off. So GRPO is
# (-2.305171 / 2 + 4.140425 / 4 + 2.982035 / 3 - 0.818731) / 4, DAPO their sum / 10 with 1.28 for
# 1.2, Dr.GRPO their sum / 8 / 4. The gradient of a token in the band is its loss times its weight.
# GSPO with 0.1: (-1.1 + 0.975310 + 0.957592 - 0.818731) / 4, LUSPO each times L. Only the first
# sequence is cut off; with the published bands only the fourth is inside.
# k3 with d = log_ratio - 0.1 adds 0.1 (exp(-d) + d - 1), its gradient 0.1 (1 - exp(-d)).
# GSPO-token is GSPO if a row has one advantage. BNPO with one micro-batch: GRPO's losses / 10.
# RLOO: the log-probabilities sum to -1.6, -4.1, -3.13, -1.2, times A = 2/3, -2/3, -2/3, 2/3.
# RLOO-IS: S = 0.4, -0.1, -0.13, -0.2, so -1.2 (cut off), 0.904837, 0.878095, -0.818731 times 2/3.
# FSPO: b = 0.15 sqrt(L) = 0.212132, 0.3, 0.259808, 0.15. The first is cut at -e^b = -1.236311. The
# fourth is below the band, but keeps its gradient because A > 0. A drift of -0.02 per token moves
# the first upper end to 0.172132 (centre), or out to 0.252132 (widen, for either sign).
# CISPO: -r A log pi, all ten with a gradient; with the bounds 0.8 and 1.28, 1.349859 becomes 1.28,
# 0.670320 and 0.740818 become 0.8. SAPO at r = 1.105171: 4 sigmoid(0.105171) = 2.105074; tau 1.05
# for A < 0. GMPO: no token is above 0.4, so its losses are GSPO's unclipped; with 0.2 the means
# are (0.1 + 0.2) / 2, (-0.05 + 0.25 - 0.2 + 0.1) / 4, (0.02 - 0.2 + 0.15) / 3.
# VESPO: phi = e^3 W^2 e^-3W at W = e^0.4, e^-0.2, and e^2 W^3 e^-2W at e^-0.1, e^-0.13.
# CTPO: prefix sums 0.1 0.4 | -0.05 0.2 -0.2 -0.1 | 0.02 -0.28 -0.13 | -0.2, upper ends 0.05 sqrt(t)
# with A > 0 cut both of row 1, lower ends -0.025 sqrt(t) with A < 0 cut all negative ones.
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
        LUSPO(0.1, 0.1, regularizers=[KL(0.1, "k3")]),
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
    "gspo_token .1/.1 A=unit": Golden(
        GSPOToken(0.1, 0.1), UNIT, 0.003543, [[0, 0], [0.060957] * 4, [0.079799] * 3, [-0.204683]]
    ),
    "bnpo eps.2 single micro-batch A=unit": Golden(
        BNPO(),
        UNIT,
        0.399856,
        [[-0.110517, 0], [0.095123, 0.128403, 0, 0.110517], [0.10202, 0, 0.116183], [-0.081873]],
    ),
    "rloo reinforce (no IS) A=rloo": Golden(
        RLOO(),
        LEFT_OUT,
        -0.738333,
        [[-0.166667] * 2, [0.166667] * 4, [0.166667] * 3, [-0.166667]],
    ),
    "rloo full-seq ratio eps.2 A=rloo": Golden(
        RLOOIS(), LEFT_OUT, -0.0393, [[0, 0], [0.150806] * 4, [0.146349] * 3, [-0.136455]]
    ),
    "fspo mu=0 c=.15 A=unit": Golden(
        fspo(), UNIT, -0.068027, [[0, 0], [0.226209] * 4, [0.219524] * 3, [-0.204683]]
    ),
    "fspo literal mu=+.02 c=.15": Golden(
        fspo("widen", -0.02),
        UNIT,
        -0.080641,
        [[0, 0], [0.226209] * 4, [0.219524] * 3, [-0.204683]],
    ),
    "fspo centred m=-.02 c=.15": Golden(
        fspo("centre", -0.02),
        UNIT,
        -0.055908,
        [[0, 0], [0.226209] * 4, [0.219524] * 3, [-0.204683]],
    ),
    "fspo mu=0 c=.15 A=rloo": Golden(
        fspo(), LEFT_OUT, -0.045352, [[0, 0], [0.150806] * 4, [0.146349] * 3, [-0.136455]]
    ),
    "cispo max=5 (no lower) token-mean": Golden(
        CISPO(),
        UNIT,
        -0.39233,
        [
            [-0.110517, -0.134986],
            [0.095123, 0.128403, 0.067032, 0.110517],
            [0.10202, 0.074082, 0.116183],
            [-0.081873],
        ],
    ),
    "cispo clamp[.8,1.28] token-mean": Golden(
        CISPO(0.2, 0.28),
        UNIT,
        -0.422767,
        [
            [-0.110517, -0.128],
            [0.095123, 0.128, 0.08, 0.110517],
            [0.10202, 0.08, 0.116183],
            [-0.081873],
        ],
    ),
    "sapo 1/1.05 seq-mean-token-mean": Golden(
        SAPO(),
        UNIT,
        -0.064442,
        [
            [-0.137765, -0.163673],
            [0.059413, 0.078493, 0.040665, 0.068863],
            [0.085007, 0.060606, 0.096124],
            [-0.20301],
        ],
    ),
    "gmpo .4/.4": Golden(
        GMPO(), UNIT, -0.026808, [[-0.152675] * 2, [0.060957] * 4, [0.079799] * 3, [-0.204683]]
    ),
    "gmpo .2/.2": Golden(
        GMPO(0.2, 0.2),
        UNIT,
        0.0087,
        [[-0.145229, 0], [0.064082, 0.064082, 0, 0.064082], [0.082504, 0, 0.082504], [-0.204683]],
    ),
    "vespo k=2/3 lam=3/2 token-mean": Golden(
        VESPO(), UNIT, -0.417855, [[-0.050892] * 2, [0.089613] * 4, [0.086399] * 3, [-0.115466]]
    ),
    "ctpo .025/.05 p=.5 seq-mean-token-mean": Golden(
        CTPO(dual_clip_log=10.0),
        UNIT,
        0.031605,
        [[0, 0], [0, 0.076338, 0, 0], [0.085017, 0, 0], [-0.204683]],
    ),
}

# Not among the shared numbers.
# DPPO, shift 0.1, from pi_old = 0.367879: pi rises by 0.128706 in (1, 2) with A > 0 and falls by
# 0.121282 in (2, 3) with A < 0: both are dropped. (2, 2) rises by 0.104487 with A < 0 and stays.
# The others give -r A log pi: 0.994654 | -0.998791 -0.963019 -0.994654 | -0.999797 -0.963064
# -0.987559 | 0.982477, in sum -3.929753, over four rows and a constant of 5. Their binary KLs
# are 0.0335 and 0.0362, that of (2, 2) is 0.0222: a bound of 0.03 nats drops the same.
# VESPO against the engine: S + mismatch = 1.2, -1.0, 0.07, -0.2, phi = 0.010458, 0.176266,
# 1.067142, 1.154662; times -A and the sums of log pi, -1.6, -4.1, -3.13, -1.2, over ten tokens.
# CTPO as published: with A < 0 and the dual clip at 0.05 sqrt(t), (2, 2) is cut off at
# e^(0.05 sqrt 2) = 1.073271 instead of e^0.2 = 1.221403: 0.031605 - 0.148132 / 4 / 4 = 0.022347.
DPPO_GRADIENT = [
    [-0.055259, 0],
    [0.047561, 0.064201, 0, 0.055259],
    [0.05101, 0.037041, 0.058092],
    [-0.040937],
]
OWN_GOLDEN = {
    "dppo": Golden(
        DPPO(5, max_shift=0.1),
        UNIT,
        -0.196488,
        DPPO_GRADIENT,
    ),
    "dppo kl": Golden(DPPOKL(5, max_kl=0.03), UNIT, -0.196488, DPPO_GRADIENT),
    "vespo engine": Golden(
        VESPO(behaviour="engine"),
        UNIT,
        -0.266052,
        [[-0.001046] * 2, [0.017627] * 4, [0.106714] * 3, [-0.115466]],
    ),
    "ctpo dual": Golden(
        CTPO(), UNIT, 0.022347, [[0, 0], [0, 0, 0, 0], [0.085017, 0, 0], [-0.204683]]
    ),
}


@pytest.mark.parametrize(
    "golden", [*GOLDEN.values(), *OWN_GOLDEN.values()], ids=[*GOLDEN, *OWN_GOLDEN]
)
def test_objective_golden(golden):
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


def test_bnpo_golden_over_micro_batches():
    # tokens of rows 1 and 2: (-2.305171 + 4.140425) / 6 = 0.305876, of 3 and 4 (2.982035 -
    # 0.818731) / 4 = 0.540826, their mean 0.423351
    rows = fixture(UNIT)
    result = evaluate_parts(BNPO(), [rows[:2], rows[2:]])
    grad = [
        [-0.092098, 0],
        [0.079269, 0.107002, 0, 0.092098],
        [0.127525, 0, 0.145229],
        [-0.102341],
    ]
    assert result.loss == pytest.approx(0.423351, abs=1e-6)
    assert_close(result.grad, grad, 1e-6)


def test_luspo_with_kl_is_neither_of_the_width_mean_forms():
    # mean over the padded width times L: masks the KL but not the policy term (0.945455), or both
    objective = LUSPO(0.1, 0.1, regularizers=[KL(0.1)])
    rows = fixture(UNIT)
    for extra in (0, 20):
        loss = evaluate(objective, rows, extra=extra).loss
        assert abs(loss - 0.945455) > 1e-3
        assert abs(loss - 1.194419) > 1e-3
        assert loss == pytest.approx(0.947226, abs=1e-6)
