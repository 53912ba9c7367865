"""EMA-GRPO over the steps of a run, against a loop over the authors' formula.

Mutations, each seen red:
    the moments read before the step is in them; learned in `__call__`; of all tasks together
    the deviation of the moments unclamped; the group's own deviation as a sample's; no guard
"""

import json
import math
import random

import pytest
import torch

from tests.advantages.test_batch_advantages import rollout_of
from vlm_rl.advantages import EMANormalized
from vlm_rl.records import Rollout

NOTHING = Rollout.empty(4)


class Loop:
    """EMA-GRPO in floats, one task and group at a time."""

    def __init__(self) -> None:
        self.moments: dict[str, tuple[float, float]] = {}

    def step(self, rewards: list[list[float]], tasks: list[str]) -> list[list[float]]:
        for task in dict.fromkeys(tasks):
            own = [r for row, t in zip(rewards, tasks, strict=True) if t == task for r in row]
            new = (sum(own) / len(own), sum(r * r for r in own) / len(own))
            if task in self.moments:
                old = self.moments[task]
                new = (0.99 * old[0] + 0.01 * new[0], 0.99 * old[1] + 0.01 * new[1])
            self.moments[task] = new
        return [self.of_group(row, *self.moments[t]) for row, t in zip(rewards, tasks, strict=True)]

    @staticmethod
    def of_group(row: list[float], first: float, second: float) -> list[float]:
        if min(row) == max(row):
            return [0.0] * len(row)
        mean = sum(row) / len(row)
        sigma = max(math.sqrt(max(second - first * first, 0.0)), 1e-3)
        scaled = [(r - mean) / (sigma + 1e-6) for r in row]
        if max(map(abs, scaled)) > 5:
            own = math.sqrt(sum((r - mean) ** 2 for r in row) / len(row))
            scaled = [(r - mean) / (own + 1e-6) for r in row]
        return scaled


def test_ema_normalized_matches_float64_loop_over_steps() -> None:
    rng, own, loop = random.Random(0), EMANormalized(), Loop()
    guarded = 0
    for _ in range(40):
        tasks = [rng.choice(["chart", "", "boxes"]) for _ in range(5)]
        rewards = [
            [
                rng.choice([0.0, 1.0, rng.random() * 0.01]) * (9 if t == "boxes" else 1)
                for _ in range(4)
            ]
            for t in tasks
        ]
        rollout = rollout_of(rewards, tasks=tasks)
        expected = loop.step(rewards, tasks)
        actual = own(rollout).tolist()
        assert actual == own(rollout).tolist(), "a step may be done again"
        own.learn(rollout, NOTHING)
        for row, wanted in zip(actual, expected, strict=True):
            assert row == pytest.approx(wanted, rel=1e-9, abs=1e-9)
            guarded += max(map(abs, wanted)) < 2 and max(wanted) > 0
    assert guarded


def test_ema_normalized_golden() -> None:
    # rewards 1 0 0 1: moments 0.5 and 0.5, sigma 0.5, so +-0.5 / 0.500001
    own, first = EMANormalized(), rollout_of([[1.0, 0.0, 0.0, 1.0]])
    assert own(first)[0].tolist() == pytest.approx([0.999998, -0.999998, -0.999998, 0.999998])
    own.learn(first, NOTHING)
    # then 1 0 0 0: moments 0.99 0.5 + 0.01 0.25 = 0.4975, sigma sqrt(0.4975 - 0.4975^2) = 0.499994
    second = own(rollout_of([[1.0, 0.0, 0.0, 0.0]]))[0].tolist()
    assert second == pytest.approx([0.75 / 0.499995, *[-0.25 / 0.499995] * 3], abs=1e-5)


def test_guard_falls_back_to_the_deviation_of_the_group() -> None:
    own = EMANormalized(decay=0.99)
    own.learn(rollout_of([[0.5, 0.5, 0.5, 0.51]]), NOTHING)
    # sigma of the task is 0.04 now, and 0.5 / 0.04 beyond 5: 0.5 / 0.5 of the group
    assert own(rollout_of([[1.0, 0.0, 0.0, 1.0]])).abs().max() == pytest.approx(1.0, abs=1e-5)


def test_unscored_answers_and_tasks_without_any_leave_the_state_alone() -> None:
    own = EMANormalized()
    none = torch.zeros(1, 4, dtype=torch.bool)
    own.learn(rollout_of([[1.0, 0.0, 0.0, 1.0]], scored=none), NOTHING)
    assert own.moments == {}
    some = torch.tensor([[True, True, False, False]])
    own.learn(rollout_of([[1.0, 0.0, 9.0, 9.0]], scored=some), NOTHING)
    assert own.moments == {"": (0.5, 0.5)}


def test_state_goes_through_json_and_back() -> None:
    own, other = EMANormalized(), EMANormalized()
    own.learn(rollout_of([[1.0, 0.0], [0.3, 0.2]], tasks=["a", "b"]), NOTHING)
    other.load_state_dict(json.loads(json.dumps(own.state_dict())))
    next_step = rollout_of([[1.0, 0.5], [0.3, 0.9]], tasks=["a", "b"])
    assert torch.equal(other(next_step), own(next_step))
    other.learn(next_step, NOTHING)
    own.learn(next_step, NOTHING)
    assert other.state_dict() == own.state_dict()


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: EMANormalized(decay=1.0), r"EMANormalized.decay must be in \[0, 1\), got 1.0"),
        (lambda: EMANormalized(min_std=0.0), "min_std > 0, finite, and most > 0, got 0.0"),
        (lambda: EMANormalized(most=math.nan), "the authors' code has 1e-3 and 5"),
        (lambda: EMANormalized(epsilon=-1.0), "epsilon must be >= 0, got -1.0"),
    ],
)
def test_ema_normalized_refuses(construct, message) -> None:
    with pytest.raises(ValueError, match=message):
        construct()
