"""Advantages: rewards [P, G] of a group relative to each other.

Everything is float64, and groups that say nothing are found by comparing, not by a standard
deviation: eight rewards of 0.9 have a float32 deviation of 6e-8, and dividing by it makes noise
into advantages.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.records import Rollout


class Advantage(ABC):
    """An advantage estimator."""

    @abstractmethod
    def __call__(self, rollout: Rollout) -> Tensor:
        """Advantages [P, G] float64 of a whole step's completions.

        Completions that could not be scored are in no statistic and get 0. A group whose scored
        rewards are all equal, or that has fewer than two, gets exactly 0.
        """


class _PerGroup(Advantage):
    """Applies `of_group` to the scored rewards of each group that is not all equal."""

    def __call__(self, rollout: Rollout) -> Tensor:
        return self.of_rewards(rollout.scores.total, rollout.scores.scored)

    def of_rewards(self, rewards: Tensor, scored: Tensor) -> Tensor:
        """`rewards` [P, G] float64, `scored` [P, G] bool -> advantages [P, G] float64."""
        assert rewards.dtype == torch.float64
        advantages = torch.zeros_like(rewards)
        for row, (group, valid) in enumerate(zip(rewards, scored, strict=True)):
            values = group[valid]
            if len(values) > 1 and bool(values.min() != values.max()):
                advantages[row, valid] = self.of_group(values)
        return advantages

    @abstractmethod
    def of_group(self, values: Tensor) -> Tensor:
        """At least two rewards, not all equal -> their advantages."""


class Normalized(_PerGroup):
    """A_i = (R_i - mean) / (std + epsilon) (GRPO, arXiv:2402.03300).

    Conventions differ between code bases: most take the sample standard deviation (n - 1); the
    epsilon is 1e-6 here, 1e-4 in some.
    """

    def __init__(
        self, std: Literal["sample", "population"] = "sample", epsilon: float = 1e-6
    ) -> None:
        if not epsilon >= 0:
            raise ValueError(f"epsilon must be >= 0, got {epsilon}; usual values are 1e-6, 1e-4")
        self.correction = {"sample": 1, "population": 0}[std]
        self.epsilon = epsilon

    def of_group(self, values: Tensor) -> Tensor:
        return (values - values.mean()) / (values.std(correction=self.correction) + self.epsilon)


class Centered(_PerGroup):
    """A_i = R_i - mean, without a deviation that would favour easy and hard problems
    (Dr.GRPO, arXiv:2503.20783)."""

    def of_group(self, values: Tensor) -> Tensor:
        return values - values.mean()


class LeaveOneOut(_PerGroup):
    """A_i = R_i - mean of the others = G/(G-1) (R_i - mean) (RLOO, arXiv:2402.14740)."""

    def of_group(self, values: Tensor) -> Tensor:
        return (values - values.mean()) * len(values) / (len(values) - 1)
