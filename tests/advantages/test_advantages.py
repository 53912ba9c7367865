"""Advantages against worked numbers and loops; groups without a signal.

Mutations, each seen red:
    equality tested by `std() > 0` instead of comparison -> all-equal
    `len(values) > 1` left out -> single and empty
    unscored rewards kept in the group -> unscored, left out, finite
    sample and population swapped, epsilon left out -> golden, loop
    the median instead of the mean, G / (G - 1) left out -> golden, loop, leave-one-out
    `epsilon < 0` instead of `not epsilon >= 0` -> refuses
"""

import json
import math
import random

import pytest
import torch
from torch import Tensor

from vlm_rl.advantages import Centered, LeaveOneOut, Normalized, PerGroup


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: list[float], freedom: int) -> float:
    squares = [(value - mean(values)) ** 2 for value in values]
    return math.sqrt(math.fsum(squares) / freedom)


def loop_normalized(rewards: list[float]) -> list[float]:
    scale = deviation(rewards, len(rewards) - 1) + 1e-6
    return [(reward - mean(rewards)) / scale for reward in rewards]


def loop_population(rewards: list[float]) -> list[float]:
    scale = deviation(rewards, len(rewards)) + 1e-4
    return [(reward - mean(rewards)) / scale for reward in rewards]


def loop_centered(rewards: list[float]) -> list[float]:
    return [reward - mean(rewards) for reward in rewards]


def loop_leave_one_out(rewards: list[float]) -> list[float]:
    others = [rewards[:i] + rewards[i + 1 :] for i in range(len(rewards))]
    return [reward - mean(rest) for reward, rest in zip(rewards, others, strict=True)]


LOOPS = [
    (Normalized(), loop_normalized),
    (Normalized("population", 1e-4), loop_population),
    (Centered(), loop_centered),
    (LeaveOneOut(), loop_leave_one_out),
]
every_advantage = pytest.mark.parametrize(
    "advantage", [a for a, _ in LOOPS], ids=["sample", "population", "centered", "leave_one_out"]
)

# Rewards 1, 0, 0, 1: mean 1/2, sample deviation sqrt(1/3), population deviation 1/2.
# Rewards 1, 0, 0, 0: mean 1/4, sample deviation 1/2, population deviation sqrt(3)/4.
HALF = {
    "grpo_eps1e-6": (Normalized(), [0.866024, -0.866024, -0.866024, 0.866024]),
    "grpo_eps1e-4": (Normalized(epsilon=1e-4), [0.865875, -0.865875, -0.865875, 0.865875]),
    "grpo_population": (Normalized("population"), [0.999998, -0.999998, -0.999998, 0.999998]),
    "dr_grpo": (Centered(), [0.5, -0.5, -0.5, 0.5]),
    "rloo": (LeaveOneOut(), [0.666667, -0.666667, -0.666667, 0.666667]),
}
ONE = {
    "sample_std": (Normalized(), [1.499997, -0.499999, -0.499999, -0.499999]),
    "population_std": (Normalized("population"), [1.732047, -0.577349, -0.577349, -0.577349]),
    "dr": (Centered(), [0.75, -0.25, -0.25, -0.25]),
    "rloo": (LeaveOneOut(), [1.0, -0.333333, -0.333333, -0.333333]),
}
GOLDEN = [([1.0, 0.0, 0.0, 1.0], *case) for case in HALF.values()]
GOLDEN += [([1.0, 0.0, 0.0, 0.0], *case) for case in ONE.values()]


def of_group(advantage: PerGroup, rewards: list[float]) -> list[float]:
    """Return the advantages of one group, all scored."""
    group = torch.tensor([rewards], dtype=torch.float64)
    return of_rewards(advantage, group)[0].tolist()


def of_rewards(advantage: PerGroup, rewards: Tensor, scored: Tensor | None = None) -> Tensor:
    """Return advantages [P, G] of completions of one token."""
    scored = torch.ones_like(rewards, dtype=torch.bool) if scored is None else scored
    return advantage.of_rewards(rewards, scored, torch.ones_like(rewards, dtype=torch.int64))


@pytest.mark.parametrize(("rewards", "advantage", "expected"), GOLDEN, ids=[*HALF, *ONE])
def test_advantage_golden(rewards, advantage, expected):
    assert of_group(advantage, rewards) == pytest.approx(expected, abs=1e-6)


def test_golden_numbers_are_the_shared_ones(shared):
    worked = json.loads((shared / "reference" / "worked_examples.json").read_text())
    numbers = worked["advantages"]
    assert {name: case[1] for name, case in ONE.items()} == numbers.pop("R=[1,0,0,0]")
    assert {name: case[1] for name, case in HALF.items()} == numbers
    for case in worked["grpo float32 all-equal hazard"]:
        size, reward = (part.split("=")[1] for part in case.split(","))
        rewards = torch.tensor([float(reward)] * int(size), dtype=torch.float32).double()
        assert of_group(Normalized(), rewards.tolist()) == [0.0] * int(size)


@pytest.mark.parametrize(("advantage", "loop"), LOOPS)
def test_advantage_matches_float64_loop(advantage, loop):
    rng = random.Random(0)
    for size in (2, 3, 8, 32):
        rewards = [rng.gauss(0, 1) for _ in range(size)]
        assert of_group(advantage, rewards) == pytest.approx(loop(rewards), rel=1e-12, abs=1e-12)


@every_advantage
@pytest.mark.parametrize("reward", [0.9, 1 / 3, 0.35, 0.1, 0.95, -1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_equal_group_is_exactly_zero(advantage, reward, dtype):
    for size in range(2, 33):
        rewards = torch.full((3, size), reward, dtype=dtype).double()
        result = of_rewards(advantage, rewards)
        assert torch.equal(result, torch.zeros_like(rewards))


@every_advantage
def test_equal_after_leaving_out_the_unscored_is_exactly_zero(advantage):
    rewards = torch.tensor([[0.9, 0.0, 0.9, 0.9]], dtype=torch.float64)
    scored = torch.tensor([[True, False, True, True]])
    assert of_rewards(advantage, rewards, scored).tolist() == [[0.0] * 4]


@every_advantage
def test_random_groups_are_finite(advantage):
    generator = torch.Generator().manual_seed(0)
    for size in (2, 3, 4, 8, 16):
        exponents = torch.randint(-12, 4, (2000, 1), generator=generator)
        rewards = torch.randint(0, 3, (2000, size), generator=generator) / 2
        noise = torch.randn((2000, size), generator=generator, dtype=torch.float64)
        rewards = rewards + noise * 10.0**exponents
        scored = torch.rand((2000, size), generator=generator) < 0.9
        result = of_rewards(advantage, rewards, scored)
        assert result.dtype == torch.float64
        assert result.isfinite().all()
        # every estimator here centres the rewards of a group
        assert result.sum(-1).abs().max() < 1e-9 * (1 + result.abs().max())


@every_advantage
def test_single_and_empty_groups_are_zero(advantage):
    rewards = torch.tensor([[0.7], [-1.0]], dtype=torch.float64)
    assert of_rewards(advantage, rewards).tolist() == [
        [0.0],
        [0.0],
    ]
    one_scored = torch.tensor([[True, False], [False, False]])
    assert of_rewards(advantage, rewards.expand(2, 2), one_scored).tolist() == [[0.0, 0.0]] * 2


@every_advantage
@pytest.mark.parametrize("unscored", [0.0, 1e9, math.nan, math.inf], ids=str)
def test_unscored_completions_are_in_no_statistic(advantage, unscored):
    rewards = torch.tensor([[1.0, unscored, 0.2, unscored, 0.5]], dtype=torch.float64)
    scored = torch.tensor([[True, False, True, False, True]])
    result = of_rewards(advantage, rewards, scored)[0]
    assert result[scored[0]].tolist() == of_group(advantage, [1.0, 0.2, 0.5])
    assert result[~scored[0]].tolist() == [0.0, 0.0]


@every_advantage
def test_groups_do_not_see_each_other(advantage):
    rewards = torch.tensor([[1.0, 0.0, 0.5], [9.0, -3.0, 2.0]], dtype=torch.float64)
    result = of_rewards(advantage, rewards)
    assert result.tolist() == [of_group(advantage, group) for group in rewards.tolist()]


def test_leave_one_out_is_centered_times_group_over_others():
    rewards = [0.3, 1.0, -0.2, 0.0, 0.9]
    expected = [5 / 4 * value for value in of_group(Centered(), rewards)]
    assert of_group(LeaveOneOut(), rewards) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epsilon", [-1e-6, math.nan])
def test_normalized_refuses(epsilon):
    with pytest.raises(ValueError, match=f"epsilon must be >= 0, got {epsilon}") as refusal:
        Normalized(epsilon=epsilon)
    assert "\n" not in str(refusal.value)
