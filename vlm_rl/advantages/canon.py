"""CANON (arXiv:2509.23962): compare the short and the long half of a group."""

from typing import Literal

import torch
from torch import Tensor

from vlm_rl.advantages.advantage import Advantage, tells_apart
from vlm_rl.records import Rollout


class CANON(Advantage):
    """A = mu inter + (1 - mu) intra, the group sorted by length and cut at floor(n / 2):

    inter: R_i - mean of the other half; intra: R_i - mean of its own half.

    `mu` 0.5 is the plain mean if n is even. "batch_accuracy" takes the share of the step's
    completions that are correct, "batch_error" 1 minus that ("first inter, later intra").
    `long_weight` alpha discounts long answers: inter is R_i - alpha mean(long) for the short half
    and alpha R_i - mean(short) for the long half. The paper has 0.88 to 0.96. With alpha < 1 a
    group whose rewards all equal R has a signal too: mu (1 - alpha) R for the short half, and minus
    that for the long half. Completions of equal length keep their order in the group.
    """

    def __init__(
        self,
        mu: float | Literal["batch_accuracy", "batch_error"] = 0.5,
        long_weight: float = 1.0,
    ) -> None:
        if not isinstance(mu, str) and not 0 <= mu <= 1:
            raise ValueError(f"CANON.mu must be in [0, 1], got {mu}; take 0.5 for the group's mean")
        if not 0 < long_weight <= 1:
            raise ValueError(f"CANON.long_weight must be in (0, 1], got {long_weight}; take 1")
        self.mu = mu
        self.long_weight = long_weight

    def __call__(self, rollout: Rollout) -> Tensor:
        scores, lengths = rollout.scores, rollout.lengths
        mu = self._mu(rollout)
        advantages = torch.zeros_like(scores.total)
        for row, valid in enumerate(scores.scored):
            values = scores.total[row, valid]
            if tells_apart(values) or (len(values) > 1 and self.long_weight < 1):
                advantages[row, valid] = halves_compared(
                    values, lengths[row, valid], mu, discount_high=self.long_weight
                )
        return advantages

    def _mu(self, rollout: Rollout) -> float:
        if not isinstance(self.mu, str):
            return self.mu
        accuracy = share_of_right(rollout)
        return accuracy if self.mu == "batch_accuracy" else 1 - accuracy


def share_of_right(rollout: Rollout) -> float:
    """Return the right answers among the scored ones of a step; 0 if there are none."""
    correct, scored = rollout.scores.correct.sum(), rollout.scores.scored.sum()
    return float(correct / scored.clamp(min=1))


def halves_compared(
    values: Tensor,
    order_by: Tensor,
    mu: float,
    *,
    discount_low: float = 1.0,
    discount_high: float = 1.0,
) -> Tensor:
    """Return mu inter + (1 - mu) intra of rewards [n], halved by `order_by` [n] at floor(n / 2).

    A discounted half counts `discount` times in inter, on either side of the difference.
    """
    order = order_by.sort(stable=True).indices
    low, high = order[: len(order) // 2], order[len(order) // 2 :]
    inter, intra = torch.empty_like(values), torch.empty_like(values)
    inter[low] = discount_low * values[low] - discount_high * values[high].mean()
    inter[high] = discount_high * values[high] - discount_low * values[low].mean()
    for half in (low, high):
        own = values[half]
        intra[half] = own - own.mean() if tells_apart(own) else 0.0  # no rounding for a signal
    return mu * inter + (1 - mu) * intra
