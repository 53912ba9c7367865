"""CANON on entropy: halves by entropy, the discount, and the courses of mu.

Mutations, each seen red:
    the halves swapped, the median in the low half, the sum of entropies for their mean -> loop
    the discount on the other half -> discount
    the warm-up one step late, the cosine not restarted, the two courses swapped -> courses
"""

import math
import random
from dataclasses import replace

import pytest

from tests.advantages.test_batch_advantages import completion_of, rollout_of
from vlm_rl.advantages import CANON, CANONEntropy
from vlm_rl.records import Rollout


def with_entropies(rewards: list[list[float]], entropies: list[list[float]]) -> Rollout:
    """Return groups whose lengths run against their entropies."""
    rollout = rollout_of(rewards)
    groups = [
        [completion_of(1 + int(10 * (9 - value)), value) for value in row] for row in entropies
    ]
    return replace(rollout, groups=groups)


def loop(rewards: list[float], entropies: list[float], mu: float, alpha: float) -> list[float]:
    order = sorted(range(len(rewards)), key=entropies.__getitem__)
    low, high = order[: len(order) // 2], order[len(order) // 2 :]
    mean = {
        half: sum(rewards[i] for i in rows) / len(rows) for half, rows in (("l", low), ("h", high))
    }
    values = []
    for i, reward in enumerate(rewards):
        if i in low:
            inter, intra = alpha * reward - mean["h"], reward - mean["l"]
        else:
            inter, intra = reward - alpha * mean["l"], reward - mean["h"]
        values.append(mu * inter + (1 - mu) * intra)
    return values


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("alpha", [1.0, 0.88])
def test_canon_entropy_matches_float64_loop(mu: float, alpha: float) -> None:
    rng = random.Random(0)
    for size in (2, 3, 4, 7, 16):
        rewards = [rng.choice([0.0, 0.5, 1.0]) for _ in range(size - 2)] + [0.0, 1.0]
        entropies = [round(rng.uniform(0, 8), 3) for _ in range(size)]
        actual = CANONEntropy(mu, alpha)(with_entropies([rewards], [entropies]))[0].tolist()
        assert actual == pytest.approx(loop(rewards, entropies, mu, alpha), abs=1e-6)


def test_canon_entropy_golden() -> None:
    # sorted by entropy the rewards are 1, 1, 1, 0: the numbers of CANON on length
    groups = with_entropies([[0.0, 1.0, 1.0, 1.0]], [[0.9, 0.2, 0.3, 0.5]])
    assert CANONEntropy(1.0)(groups)[0].tolist() == [-1.0, 0.5, 0.5, 0.0]
    assert CANONEntropy(0.0)(groups)[0].tolist() == [-0.5, 0.0, 0.0, 0.5]
    assert CANONEntropy(0.5)(groups)[0].tolist() == [-0.75, 0.25, 0.25, 0.25]


def test_discount_is_of_the_low_half_and_learns_from_equal_rewards() -> None:
    # low: 0.9 - 1 = -0.1, high: 1 - 0.9 = 0.1: the uncertain half is preferred
    equal = with_entropies([[1.0] * 4], [[0.1, 0.2, 0.8, 0.9]])
    assert CANONEntropy(1.0, 0.9)(equal)[0].tolist() == pytest.approx([-0.1, -0.1, 0.1, 0.1])
    assert not CANONEntropy(1.0)(equal).any()


def test_courses_of_mu() -> None:
    rollout = rollout_of([[1.0, 0.0, 0.0, 0.0]])

    def course(name: str, steps: list[int]) -> list[float]:
        own = CANONEntropy(name)
        return [own.mu_at(replace(rollout, step=step)) for step in steps]

    # half a cosine at a quarter: (1 + cos(pi / 4)) / 2 = 0.853553
    steps = [0, 14, 29, 30, 40, 50, 69, 70, 110, 149]
    last = (1 + math.cos(math.pi * 39 / 40)) / 2
    height = [1 / 30, 0.5, 1.0, 1.0, 0.853553, 0.5, last, 1.0, 1.0, last]
    rises = [*height[:3], *(0.4 + 0.6 * value for value in height[3:])]
    assert course("cosine_inter_first", steps) == pytest.approx(rises, abs=1e-6)
    falls = [1 - 0.6 * value for value in height]
    assert course("cosine_intra_first", steps) == pytest.approx(falls, abs=1e-6)
    assert course("batch_accuracy", [0, 99]) == [0.25, 0.25]
    assert course("batch_error", [0, 99]) == [0.75, 0.75]
    assert CANONEntropy(warmup_steps=0).mu_at(rollout) == 1.0


def test_canon_entropy_asks_for_entropies_and_takes_empty_completions() -> None:
    assert CANONEntropy().reads_policy
    assert not CANON().reads_policy
    groups = with_entropies([[1.0, 0.0]], [[0.5, 0.7]])
    empty = replace(groups, groups=[[completion_of(0), groups.groups[0][1]]])
    # the empty one has entropy 0 and is the low half
    assert CANONEntropy(1.0)(empty)[0].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: CANONEntropy(1.5), r"CANONEntropy.mu must be in \[0, 1\], got 1.5"),
        (lambda: CANONEntropy(0.5, 0.0), r"CANONEntropy.low_weight must be in \(0, 1\], got 0.0"),
        (lambda: CANONEntropy(warmup_steps=-1), "warmup_steps >= 0 and cycle_steps >= 1, got -1"),
        (lambda: CANONEntropy(cycle_steps=0), "the authors have 30 and 40"),
    ],
)
def test_canon_entropy_refuses(construct, message) -> None:
    with pytest.raises(ValueError, match=message):
        construct()
