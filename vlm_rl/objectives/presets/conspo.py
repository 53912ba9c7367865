"""ConSPO (arXiv:2605.12969): each right answer against the wrong ones of its group."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.group_losses import NEVER, GroupLoss
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import OfGroups


class GroupContrast(GroupLoss):
    """The mean over the right answers i of -log(e_i / (e_i + sum over wrong j of e^(z_j / tau))),
    e_i = e^((z_i - m) / tau), tau the `temperature`.

    A right answer has a positive advantage, a wrong one a negative. A group without both has loss
    0. The margin m goes in a straight line from `margin_first` to `margin_last` at `margin_steps`.
    """

    def __init__(
        self, temperature: float, margin_first: float, margin_last: float, margin_steps: int
    ) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(
                f"temperature must be positive and finite, got {temperature}; it divides scores of "
                "nats per token"
            )
        if not 0 <= margin_first <= margin_last < math.inf or margin_steps < 1:
            raise ValueError(
                "ConSPO takes 0 <= margin_first <= margin_last, in nats per token, and "
                f"margin_steps >= 1, got {margin_first}, {margin_last} and {margin_steps}"
            )
        self.temperature = temperature
        self.margins, self.margin_steps = (margin_first, margin_last), margin_steps

    def margin_at(self, step: int) -> float:
        """Return the margin of a step, counted from 0."""
        first, last = self.margins
        return first + (last - first) * min(1.0, step / self.margin_steps)

    def __call__(self, scores: Tensor, advantages: Tensor, members: Tensor, step: int) -> Tensor:
        right, wrong = members & (advantages > 0), members & (advantages < 0)
        among = torch.where(wrong, scores / self.temperature, NEVER)
        own = (scores - self.margin_at(step)) / self.temperature
        # log(1 + e^(others - own)); 0 if there are no others
        losses = torch.nn.functional.softplus(among.logsumexp(1, keepdim=True) - own)
        return torch.where(right, losses, 0.0) / right.sum(1, keepdim=True).clamp(min=1)


@dataclass(eq=False)
class ConSPO(Preset):
    """The mean over groups of `GroupContrast`, of scores z_i = (1/L_i) sum_t log pi_it.

    Published: scores without ratio or clip, a contrast of each verified right answer with the wrong
    ones of its group, a margin that grows with training. None of its constants could be found, nor
    the course of the margin (a line here) and its place in the exponent. Take `VerdictSigns` as
    advantage. It takes no token weights.
    """

    temperature: float
    margin_first: float
    margin_last: float
    margin_steps: int

    def parts(self) -> Parts:
        contrast = GroupContrast(
            self.temperature, self.margin_first, self.margin_last, self.margin_steps
        )
        return TokenRatio(), OfGroups(contrast), SequenceMeanOfTokenMeans()
