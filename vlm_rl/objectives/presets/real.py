"""REAL (arXiv:2602.05630): rewards as labels of a classification within the group."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.group_losses import NEVER, GroupLoss
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import OfGroups


class GroupLabels(GroupLoss):
    """log(1 + sum over right i of e^(-s_i / tau)) + log(1 + sum over wrong j of e^(s_j / tau)),
    s_i the mean log-ratio, tau the `temperature`; the 1 is an anchor at s = 0.

    A right answer has a positive advantage, a wrong one a negative.
    """

    is_relative = True

    def __init__(self, temperature: float) -> None:
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"temperature must be positive and finite, got {temperature}; the paper has 0.5"
            )
        self.temperature = temperature

    def __call__(self, scores: Tensor, advantages: Tensor, members: Tensor, step: int) -> Tensor:
        logits, total = scores / self.temperature, torch.zeros_like(scores)
        for sign in (1, -1):
            own = members & (sign * advantages > 0)
            among = torch.where(own, -sign * logits, NEVER)
            loss = torch.nn.functional.softplus(among.logsumexp(1, keepdim=True))
            total = total + torch.where(own, loss, 0.0) / own.sum(1, keepdim=True).clamp(min=1)
        return total


@dataclass(eq=False)
class REAL(Preset):
    """The mean over groups of `GroupLabels`. Published: temperature 0.5.

    Take `VerdictSigns` as advantage. A group in which all is right, or wrong, is learned from too.
    It takes no token weights.
    """

    temperature: float = 0.5

    def parts(self) -> Parts:
        return TokenRatio(), OfGroups(GroupLabels(self.temperature)), SequenceMeanOfTokenMeans()
