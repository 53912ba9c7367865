"""CANON on entropy (arXiv:2509.23962): compare the certain and the uncertain half of a group."""

import math
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.advantages.advantage import Advantage, tells_apart
from vlm_rl.advantages.canon import halves_compared, share_of_right
from vlm_rl.records import Rollout

Course = Literal["batch_accuracy", "batch_error", "cosine_inter_first", "cosine_intra_first"]

INTRA_FIRST = 0.4
"""Where mu begins after the warm-up of "cosine_intra_first", and ends in "cosine_inter_first"."""


class CANONEntropy(Advantage):
    """`CANON` with the group sorted by the mean entropy of a completion's tokens, under the policy
    that sampled: the main variant of the paper.

    A = mu inter + (1 - mu) intra; inter compares with the mean of the other half, intra with that
    of the own half. `low_weight` alpha discounts the half of low entropy, as in the authors' code:
    inter is alpha R_i - mean(high) there and R_i - alpha mean(low) for the half of high entropy.

    `mu` is a number or a course. "batch_error" is 1 minus the share of right answers of the step
    ("first inter, later intra"), "batch_accuracy" that share. "cosine_inter_first" rises in a line
    to 1 over `warmup_steps` and then falls along half a cosine to 0.4 in each `cycle_steps`, after
    which it starts again; "cosine_intra_first" falls to 0.4 and rises to 1. The authors have 30 and
    40 steps. An empty completion has entropy 0; equal entropies keep their order in the group.
    """

    def __init__(
        self,
        mu: float | Course = "cosine_inter_first",
        low_weight: float = 1.0,
        warmup_steps: int = 30,
        cycle_steps: int = 40,
    ) -> None:
        if not isinstance(mu, str) and not 0 <= mu <= 1:
            raise ValueError(
                f"CANONEntropy.mu must be in [0, 1], got {mu}; take 0.5 for the group's mean"
            )
        if not 0 < low_weight <= 1:
            raise ValueError(f"CANONEntropy.low_weight must be in (0, 1], got {low_weight}; take 1")
        if warmup_steps < 0 or cycle_steps < 1:
            raise ValueError(
                "CANONEntropy takes warmup_steps >= 0 and cycle_steps >= 1, got "
                f"{warmup_steps} and {cycle_steps}; the authors have 30 and 40"
            )
        self.mu = mu
        self.low_weight = low_weight
        self.warmup_steps, self.cycle_steps = warmup_steps, cycle_steps
        self.reads_policy = True

    def __call__(self, rollout: Rollout) -> Tensor:
        scores, mu = rollout.scores, self.mu_at(rollout)
        entropies = mean_entropies(rollout)
        advantages = torch.zeros_like(scores.total)
        for row, valid in enumerate(scores.scored):
            values = scores.total[row, valid]
            if tells_apart(values) or (len(values) > 1 and self.low_weight < 1):
                advantages[row, valid] = halves_compared(
                    values, entropies[row, valid], mu, discount_low=self.low_weight
                )
        return advantages

    def mu_at(self, rollout: Rollout) -> float:
        """Return the weight of the comparison between the halves in this step."""
        if not isinstance(self.mu, str):
            return self.mu
        if self.mu in ("batch_accuracy", "batch_error"):
            accuracy = share_of_right(rollout)
            return accuracy if self.mu == "batch_accuracy" else 1 - accuracy
        # from 0 up to 1 and, along each cosine, from 1 down to 0
        step = rollout.step
        if step < self.warmup_steps:
            height, first = (step + 1) / self.warmup_steps, 0.0
        else:
            place = (step - self.warmup_steps) % self.cycle_steps / self.cycle_steps
            height, first = (1 + math.cos(math.pi * place)) / 2, INTRA_FIRST
        if self.mu == "cosine_inter_first":
            return first + (1 - first) * height
        return 1 - (1 - INTRA_FIRST) * height


def mean_entropies(rollout: Rollout) -> Tensor:
    """Return the mean entropy of the tokens of each completion, [P, G] float64."""
    means = torch.zeros_like(rollout.scores.total)
    for row, group in enumerate(rollout.groups):
        for column, completion in enumerate(group):
            assert completion.entropies is not None, "a step has them where they are read"
            if len(completion):
                means[row, column] = completion.entropies.double().mean()
    return means
