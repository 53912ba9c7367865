"""EMA-GRPO (OneThinker, arXiv:2512.03043): a deviation for each task, averaged over the steps."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlm_rl.advantages.advantage import Advantage, refuse_epsilon, tells_apart
from vlm_rl.records import Rollout

Moments = tuple[float, float]
"""The running means of the rewards of a task and of their squares."""


class EMANormalized(Advantage):
    """A_i = (R_i - mean of the group) / (sigma of the task + epsilon).

    sigma = sqrt(m2 - m1^2), at least `min_std`. m1 and m2 are the means of the rewards of a task
    and of their squares: those of the first step that has it, then m <- `decay` m + (1 - decay) m
    of the step. The step itself counts before it is used. A group in which that would give an
    advantage beyond `most` takes its own population deviation instead.

    All of it, with 0.99, 1e-3, 5 and 1e-6, is in the authors' code; their paper's decay was not
    found. Groups that a filter drops are in no average. The state has two numbers for each task.
    """

    def __init__(
        self,
        decay: float = 0.99,
        min_std: float = 1e-3,
        most: float = 5.0,
        epsilon: float = 1e-6,
    ) -> None:
        refuse_epsilon(epsilon)
        if not 0 <= decay < 1:
            raise ValueError(
                f"EMANormalized.decay must be in [0, 1), got {decay}; the authors' code has 0.99"
            )
        if not (0 < min_std < math.inf and most > 0):
            raise ValueError(
                "EMANormalized takes min_std > 0, finite, and most > 0, got "
                f"{min_std} and {most}; the authors' code has 1e-3 and 5"
            )
        self.decay, self.min_std, self.most, self.epsilon = decay, min_std, most, epsilon
        self.moments: dict[str, Moments] = {}

    def __call__(self, rollout: Rollout) -> Tensor:
        scores, moments = rollout.scores, self._moved(rollout)
        advantages = torch.zeros_like(scores.total)
        for row, valid in enumerate(scores.scored):
            values = scores.total[row, valid]
            if tells_apart(values):
                own = moments[rollout.prompts[row].problem.task]
                advantages[row, valid] = self._of_group(values, own)
        return advantages

    def _of_group(self, values: Tensor, moments: Moments) -> Tensor:
        centered = values - values.mean()
        mean, of_squares = moments
        sigma = max(math.sqrt(max(of_squares - mean**2, 0.0)), self.min_std)
        scaled = centered / (sigma + self.epsilon)
        if scaled.abs().max() <= self.most:
            return scaled
        return centered / (values.std(correction=0) + self.epsilon)

    def _moved(self, rollout: Rollout) -> dict[str, Moments]:
        """Return the moments with this step in them."""
        rewards: dict[str, list[Tensor]] = {}
        for row, valid in enumerate(rollout.scores.scored):
            task = rollout.prompts[row].problem.task
            rewards.setdefault(task, []).append(rollout.scores.total[row, valid])
        moments = dict(self.moments)
        for task, parts in rewards.items():
            values = torch.cat(parts)
            if not len(values):
                continue
            new = float(values.mean()), float(values.square().mean())
            old = moments.get(task, new)
            pairs = zip(old, new, strict=True)
            mean, of_squares = (self.decay * a + (1 - self.decay) * b for a, b in pairs)
            moments[task] = (mean, of_squares)
        return moments

    def learn(self, everyone: Rollout, dropped: Rollout) -> None:
        self.moments = self._moved(everyone)

    def state_dict(self) -> dict[str, Any]:
        return {task: list(moments) for task, moments in self.moments.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.moments = {task: (mean, of_squares) for task, (mean, of_squares) in state.items()}
