"""Identities between objectives: at ratio 1, at any ratio, and per token.

Mutations, each seen red:
    any aggregation or normalizer of a preset replaced -> ratio 1, weights of tokens
    the sum of log-ratios instead of their mean in SequenceMeanRatio -> equal lengths
    LocalTokenMean divided once over the update -> BNPO
    an objective without an entry in AT_RATIO_ONE -> ratio 1
    the weight divided by a signed advantage; the weight of a clipped row not 0 -> weights of tokens
"""

from dataclasses import replace

import pytest
import torch

from tests.support.objective_cases import (
    CONSTANT_TOKENS,
    OF_GROUPS,
    Row,
    assert_close,
    assert_same,
    batch_of,
    build,
    discover,
    evaluate,
    evaluate_parts,
    fixture,
    random_rows,
    sequences_of,
    stats_of,
)
from vlm_rl.advantages import Centered, LeaveOneOut
from vlm_rl.objectives import (
    BNPO,
    CISPO,
    DAPO,
    FSPO,
    GMPO,
    GRPO,
    GSPO,
    LUSPO,
    RLOO,
    RLOOIS,
    SAPO,
    VESPO,
    DrGRPO,
    GSPOToken,
)

UNIT = (1.0, -1.0, -1.0, 1.0)


def on_policy(seed: int) -> list[Row]:
    return [replace(row, logprobs=row.old) for row in random_rows(seed)]


def times(factor: float, grad: list[list[float]]) -> list[list[float]]:
    return [[factor * value for value in row] for row in grad]


# The factor of A grad log pi at ratio 1, for a row of length L among S tokens, and the normalizer:
# N sequences, S tokens or 1.
SEQUENCES, TOKENS, ONE = "N", "S", "1"
AT_RATIO_ONE = {
    "BNPO": (lambda L, S: 1 / S, ONE),
    "CISPO": (lambda L, S: 1, TOKENS),
    "CTPO": (lambda L, S: 1 / L, SEQUENCES),
    "DAPO": (lambda L, S: 1, TOKENS),
    "DPPO": (lambda L, S: 1 / CONSTANT_TOKENS, SEQUENCES),
    "DPPOKL": (lambda L, S: 1 / CONSTANT_TOKENS, SEQUENCES),
    "DrGRPO": (lambda L, S: 1 / CONSTANT_TOKENS, SEQUENCES),
    "FSPO": (lambda L, S: 1, SEQUENCES),
    "GMPO": (lambda L, S: 1 / L, SEQUENCES),
    "GRPO": (lambda L, S: 1 / L, SEQUENCES),
    "GSPO": (lambda L, S: 1 / L, SEQUENCES),
    "GSPOToken": (lambda L, S: 1 / L, SEQUENCES),
    "LUSPO": (lambda L, S: 1, SEQUENCES),
    "RLOO": (lambda L, S: 1, SEQUENCES),
    "RLOOIS": (lambda L, S: 1, SEQUENCES),
    "SAPO": (lambda L, S: 1 / L, SEQUENCES),
    "VESPO": (lambda L, S: 1, TOKENS),
}


@pytest.mark.parametrize(
    "cls", [cls for cls in discover() if cls.__name__ not in OF_GROUPS], ids=lambda c: c.__name__
)
def test_ratio_one_is_the_weighted_policy_gradient(cls):
    rows = on_policy(7)
    num_tokens = sum(map(len, rows))
    counts = {SEQUENCES: sum(len(row) > 0 for row in rows), TOKENS: num_tokens, ONE: 1}
    factor, normalizer = AT_RATIO_ONE[cls.__name__]
    factors = [factor(len(row), num_tokens) if len(row) else 0 for row in rows]
    expected = [
        [-row.advantage * value / counts[normalizer]] * len(row)
        for row, value in zip(rows, factors, strict=True)
    ]
    assert_close(evaluate(build(cls), rows).grad, expected)
    # the measured weight is the factor, before the normalizer
    weights = sequences_of(build(cls), [rows]).weight.tolist()
    assert weights == pytest.approx(factors, rel=1e-12)


def test_identities_between_objectives_at_ratio_one():
    rows = on_policy(8)
    grpo, dapo, luspo = (evaluate(o, rows).grad for o in (GRPO(), DAPO(), LUSPO()))
    for objective in (GSPO(), GSPOToken(), GMPO(), SAPO()):
        assert_close(evaluate(objective, rows).grad, grpo)
    for objective in (CISPO(), VESPO()):
        assert_close(evaluate(objective, rows).grad, dapo)
    for objective in (FSPO(0.15, 0.15, 1.0), RLOOIS(), RLOO()):
        assert_close(evaluate(objective, rows).grad, luspo)
    assert_close(luspo, times(8, evaluate(DrGRPO(8), rows).grad))


def with_advantages(rows: list[Row], advantages: torch.Tensor) -> list[Row]:
    return [replace(row, advantage=a) for row, a in zip(rows, advantages.tolist(), strict=True)]


def test_rloo_is_dr_grpo_by_the_number_of_others():
    # G / (G - 1) = 4 / 3, and Dr.GRPO divides by 8
    rows = on_policy(9)
    rewards = torch.tensor([row.advantage for row in rows], dtype=torch.float64).reshape(3, 4)
    scored, ones = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 4, dtype=torch.int64)
    left_out = LeaveOneOut().of_rewards(rewards, scored, ones).flatten()
    centered = Centered().of_rewards(rewards, scored, ones).flatten()
    rloo = evaluate(RLOO(), with_advantages(rows, left_out)).grad
    dr_grpo = evaluate(DrGRPO(8), with_advantages(rows, centered)).grad
    assert_close(rloo, times(8 * 4 / 3, dr_grpo))


def cut(row: Row, length: int) -> Row:
    names = ("logprobs", "old", "ref", "sampling", "entropy", "ids")
    return replace(row, **{name: getattr(row, name)[:length] for name in names})


def test_identities_between_objectives_of_equal_lengths():
    rows = [cut(row, 3) for row in random_rows(9) if len(row) >= 3]
    assert len(rows) >= 3
    assert_same(evaluate(GRPO(0.2, 0.28), rows), evaluate(DAPO(0.2, 0.28), rows))
    luspo, gspo = evaluate(LUSPO(2e-3, 2e-3), rows), evaluate(GSPO(2e-3, 2e-3), rows)
    assert luspo.loss == pytest.approx(3 * gspo.loss, rel=1e-12)
    assert_close(luspo.grad, times(3, gspo.grad))


@pytest.mark.parametrize("seed", range(3))
def test_gspo_token_is_gspo_at_any_ratio(seed):
    rows = random_rows(seed)
    assert_same(evaluate(GSPOToken(), rows), evaluate(GSPO(), rows))
    assert_same(evaluate(GSPOToken(0.1, 0.1), rows), evaluate(GSPO(0.1, 0.1), rows))


def test_gspo_token_gives_each_token_its_own_advantage():
    # the sequence's ratio s is inside the band: d loss / d log pi_t = -s A_t / L
    row = fixture(UNIT)[1]
    stats, batch = stats_of([row]), batch_of([row])
    advantages = torch.tensor([[1.0, -2.0, 0.5, 0.0]], dtype=torch.float64)
    batch = replace(batch, advantages=advantages)
    GSPOToken(0.1, 0.1)(stats, batch, {}).terms["policy"].sum().backward()
    expected = -0.975310 * advantages / 4
    torch.testing.assert_close(stats.logprobs.grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_bnpo_depends_on_the_split_and_dapo_does_not(seed):
    rows = [row for row in random_rows(seed) if len(row)]
    one_micro_batch = evaluate(BNPO(), rows)
    assert_same(one_micro_batch, evaluate(DAPO(0.2, 0.2), rows))
    one_row_each = [[row] for row in rows]
    assert_same(evaluate_parts(BNPO(), one_row_each), evaluate(GRPO(), rows))
    assert abs(evaluate_parts(BNPO(), one_row_each).loss - one_micro_batch.loss) > 1e-4
    assert_same(evaluate_parts(DAPO(), one_row_each), evaluate(DAPO(), rows))


def test_weight_of_a_clipped_row_is_zero():
    # L = 2, 4, 3, 1; the first row is cut off, the others weigh s / L
    sequences = sequences_of(GSPO(0.1, 0.1), [fixture(UNIT)])
    expected = [0, 0.975310 / 4, 0.957592 / 3, 0.818731]
    assert sequences.weight.tolist() == pytest.approx(expected, abs=1e-6)
    assert sequences.length.tolist() == [2, 4, 3, 1]
    assert sequences.clipped_high.tolist() == [1, 0, 0, 0]
    assert sequences.accepted.tolist() == [0, 1, 1, 1]
    # the fourth is outside, but its advantage pushes it back
    assert sequences.inside.tolist() == [0, 1, 1, 0]


def test_weight_without_an_advantage_is_unknown():
    sequences = sequences_of(GRPO(), [fixture((1.0, 0.0, -1.0, 1.0))])
    assert sequences.weight.isnan().tolist() == [False, True, False, False]
