"""The verdicts themselves, for objectives that compare the right answers of a group with the wrong
ones."""

import torch
from torch import Tensor

from vlm_rl.advantages.advantage import Advantage
from vlm_rl.records import Rollout


class VerdictSigns(Advantage):
    """1 for a right answer, -1 for a wrong one, whatever their rewards (ConSPO, REAL).

    Terms for form or length change nothing, and a group in which all is right or all is wrong has
    labels too. A group with fewer than two scored answers gets 0.
    """

    def __call__(self, rollout: Rollout) -> Tensor:
        scores = rollout.scores
        known = scores.scored & (scores.scored.sum(1, keepdim=True) > 1)
        return torch.where(known, torch.where(scores.correct, 1.0, -1.0), 0.0).double()
