"""HAPO (arXiv:2505.11225): shorter than the shortest right answer so far."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlm_rl.records import Rollout
from vlm_rl.shaping.shaping import Shaping


class HAPO(Shaping):
    """Pays length against h, the length of the shortest right answer that a problem ever had.

    r = cos(pi / 2 * L / h) if L < 2 h else -1; a right answer gets max(`floor`, r), a wrong one
    min(0, r), all 0 while a problem has no right answer. So a wrong answer is never paid for being
    short. The paper's weight is 1 and its floor -0.7. h changes after the step, by all that was
    sampled: also by groups that a filter drops. The state has a number for each problem that was
    ever answered.
    """

    def __init__(self, weight: float = 1.0, floor: float = -0.7) -> None:
        super().__init__(weight)
        if not -1 <= floor <= 0:
            raise ValueError(f"HAPO.floor must be in [-1, 0], got {floor}; the paper has -0.7")
        self.floor = floor
        self.shortest: dict[str, int] = {}

    def values(self, everyone: Rollout) -> Tensor:
        rows = zip(
            everyone.prompts, everyone.lengths.tolist(), everyone.scores.correct, strict=True
        )
        values = [
            [self._value(prompt.uid, *one) for one in zip(lengths, correct.tolist(), strict=True)]
            for prompt, lengths, correct in rows
        ]
        return torch.tensor(values, dtype=torch.float64).reshape(everyone.scores.total.shape)

    def _value(self, uid: str, length: int, is_right: bool) -> float:
        shortest = self.shortest.get(uid)
        if shortest is None:
            return 0.0
        value = math.cos(math.pi / 2 * length / shortest) if length < 2 * shortest else -1.0
        return max(self.floor, value) if is_right else min(0.0, value)

    def learn(self, everyone: Rollout, dropped: Rollout) -> None:
        for rollout in (everyone, dropped):
            right = rollout.scores.correct & (rollout.lengths > 0)
            for prompt, lengths, mask in zip(rollout.prompts, rollout.lengths, right, strict=True):
                if mask.any():
                    own = int(lengths[mask].min())
                    self.shortest[prompt.uid] = min(own, self.shortest.get(prompt.uid, own))

    def state_dict(self) -> dict[str, Any]:
        return {"shortest": self.shortest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.shortest = dict(state["shortest"])
