"""KL in the reward. Broken on purpose, seen red: the sign; a mean for the sum; padding counted;
unscored completions changed."""

import math

import pytest
import torch

from tests.advantages.test_batch_advantages import rollout_of
from vlm_rl.advantages import Normalized
from vlm_rl.rewards.kl import KLInReward

LENGTHS = [[2, 4, 3, 1]]


def test_kl_in_reward_golden():
    # log pi_old = -1, log pi_ref = -0.9: the sums are -0.1 L, so R' = R + 0.1 x 0.1 L
    old = torch.full((4, 6), -1.0)
    old[0, 2:] = math.nan  # the padding is never read
    rollout = KLInReward(0.1)(
        rollout_of([[1.0, 0.0, 0.0, 1.0]], LENGTHS), old, torch.full_like(old, -0.9)
    )
    assert rollout.scores.total[0].tolist() == pytest.approx([1.02, 0.04, 0.03, 1.01], abs=1e-7)
    assert rollout.scores.terms["kl"][0].tolist() == pytest.approx(
        [-0.2, -0.4, -0.3, -0.1], abs=1e-7
    )
    assert rollout.scores.weights == {"accuracy": 1.0, "kl": -0.1}
    expected = [0.874815, -0.857142, -0.874815, 0.857142]
    assert Normalized()(rollout)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "per_token"), [("k1", 0.3), ("k2", 0.045), ("k3", math.exp(-0.3) + 0.3 - 1)]
)
def test_kl_in_reward_estimators(estimator, per_token):
    old, ref = (torch.full((4, 4), value, dtype=torch.float64) for value in (-1.0, -1.3))
    rollout = KLInReward(1.0, estimator)(rollout_of([[0.0] * 4], LENGTHS), old, ref)
    expected = [-per_token * length for length in LENGTHS[0]]
    assert rollout.scores.total[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_unscored_completions_keep_no_reward():
    scored = torch.tensor([[True, False, True, True]])
    rollout = rollout_of([[1.0, 0.0, 0.0, 1.0]], LENGTHS, scored=scored)
    old = torch.full((4, 4), -1.0)
    changed = KLInReward(0.1)(rollout, old, torch.full_like(old, -0.5))
    assert changed.scores.total[0, 1] == 0
    assert changed.scores.total[0, 0] != 1


def test_kl_in_reward_refuses():
    with pytest.raises(ValueError, match=r"kl_in_reward.kl_coef must be > 0, got 0.0"):
        KLInReward(0.0)
