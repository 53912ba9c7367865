"""GRPO-lambda (arXiv:2505.18086): shorter only where the policy is already right."""

import torch
from torch import Tensor

from vlm_rl.records import Rollout
from vlm_rl.shaping.shaping import Shaping


class GRPOLambda(Shaping):
    """Takes sigmoid(z) from right answers in the groups of highest accuracy in the step.

    z = (L - mean) / std over the lengths of the right answers of the group, the sample deviation;
    0 if these are all equal. So with `weight` alpha a right answer of those groups is worth
    1 - alpha sigmoid(z), and others what they were. `share` of the groups, at least one, are chosen
    by the share of right answers among those that could be checked; of equal ones the first. The
    paper chooses 0.2; its alpha was not found.
    """

    def __init__(self, weight: float, share: float = 0.2) -> None:
        super().__init__(weight)
        if not 0 < share <= 1:
            raise ValueError(f"GRPOLambda.share must be in (0, 1], got {share}; the paper has 0.2")
        self.share = share

    def values(self, everyone: Rollout) -> Tensor:
        correct, lengths = everyone.scores.correct, everyone.lengths.double()
        accuracy = correct.sum(1) / everyone.scores.scored.sum(1).clamp(min=1)
        best = accuracy.sort(descending=True, stable=True).indices
        values = torch.zeros_like(lengths)
        for row in best[: max(1, int(self.share * len(best)))].tolist():
            right = correct[row]
            values[row, right] = -torch.sigmoid(_standard(lengths[row, right]))
        return values


def _standard(lengths: Tensor) -> Tensor:
    if len(lengths) < 2 or bool(lengths.min() == lengths.max()):
        return torch.zeros_like(lengths)
    return (lengths - lengths.mean()) / lengths.std()
