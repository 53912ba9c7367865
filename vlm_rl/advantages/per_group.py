"""Advantages within each group."""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.advantages.advantage import Advantage, refuse_epsilon, tells_apart
from vlm_rl.records import Rollout


class PerGroup(Advantage):
    """Applies `of_group` to the scored rewards of each group that is not all equal."""

    def __call__(self, rollout: Rollout) -> Tensor:
        scores = rollout.scores
        return self.of_rewards(scores.total, scores.scored, rollout.lengths)

    def of_rewards(self, rewards: Tensor, scored: Tensor, lengths: Tensor) -> Tensor:
        """Map `rewards` float64, `scored` bool, `lengths` int64, all [P, G], to [P, G] float64."""
        assert rewards.dtype == torch.float64
        advantages = torch.zeros_like(rewards)
        for row, (group, valid) in enumerate(zip(rewards, scored, strict=True)):
            if tells_apart(group[valid]):
                advantages[row, valid] = self.of_group(group[valid], lengths[row, valid])
        return advantages

    @abstractmethod
    def of_group(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Map at least two rewards [n], not all equal, and lengths [n], to advantages [n]."""


class Normalized(PerGroup):
    """A_i = (R_i - mean) / (std + epsilon) (GRPO, arXiv:2402.03300).

    Conventions differ between code bases: most take the sample standard deviation (n - 1); the
    epsilon is 1e-6 here, 1e-4 in some.
    """

    def __init__(
        self, std: Literal["sample", "population"] = "sample", epsilon: float = 1e-6
    ) -> None:
        refuse_epsilon(epsilon)
        self.correction = {"sample": 1, "population": 0}[std]
        self.epsilon = epsilon

    def of_group(self, values: Tensor, lengths: Tensor) -> Tensor:
        return (values - values.mean()) / (values.std(correction=self.correction) + self.epsilon)


class Centered(PerGroup):
    """A_i = R_i - mean, without the deviation, which favours easy and hard problems
    (Dr.GRPO, arXiv:2503.20783)."""

    def of_group(self, values: Tensor, lengths: Tensor) -> Tensor:
        return values - values.mean()


class LeaveOneOut(PerGroup):
    """A_i = R_i - mean of the others = G/(G-1) (R_i - mean) (RLOO, arXiv:2402.14740)."""

    def of_group(self, values: Tensor, lengths: Tensor) -> Tensor:
        return (values - values.mean()) * len(values) / (len(values) - 1)


class LengthWeightedBaseline(PerGroup):
    """A_i = R_i - sum_j L_j R_j / sum_j L_j: the baseline of least variance for a sum over tokens,
    if a gradient's squared norm grows like the length (OPO, arXiv:2505.23585)."""

    def of_group(self, values: Tensor, lengths: Tensor) -> Tensor:
        weights = lengths.double().clamp(min=1)
        return values - (weights * values).sum() / weights.sum()


class OneWinner(PerGroup):
    """Only the best gets (R_max - R_second) / (std + epsilon), the others 0: the gradient of the
    best of G (pass@k training, arXiv:2503.19595). If several are best, all get 0.

    The standard deviation is the sample deviation; published code adds 1e-6.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        refuse_epsilon(epsilon)
        self.epsilon = epsilon

    def of_group(self, values: Tensor, lengths: Tensor) -> Tensor:
        (best, second), (winner, _) = values.topk(2)
        advantages = torch.zeros_like(values)
        advantages[winner] = (best - second) / (values.std() + self.epsilon)
        return advantages


class MaxRL(PerGroup):
    """A_i = (R_i - mean) / mean (arXiv:2602.02710): hard problems, with a small mean, weigh more.

    For rewards that are never negative. Raises ValueError at the first negative reward.
    """

    def of_group(self, values: Tensor, lengths: Tensor) -> Tensor:
        if bool((values < 0).any()):
            raise ValueError(
                f"MaxRL divides by the mean reward and got a reward of {float(values.min()):g}; "
                "give every reward term values from 0, or take the advantage Normalized"
            )
        return (values - values.mean()) / values.mean()
