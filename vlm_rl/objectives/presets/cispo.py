"""CISPO (MiniMax-M1, arXiv:2506.13585): the weight is clipped, and no token loses its gradient."""

import math
from dataclasses import dataclass

from torch import Tensor

from vlm_rl.objectives.aggregations import TokenMean
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO, Surrogate, SurrogateLoss
from vlm_rl.objectives.tokens import Tokens


class CappedWeight(Surrogate):
    """-sg[clip(r, 1 - clip_low, 1 + clip_high)] A log pi; sg stops the gradient.

    `clip_low` None means no lower bound. Conventions for the upper bound differ. TRL's
    `epsilon_high` is the cap itself, 1 + `clip_high` here. verl and EasyR1 count from 1, as here;
    their lower bound of 0 keeps the weight at 1 or above and does not mean "none".
    """

    through_ratio = False
    scales_with_advantage = True

    def __init__(self, clip_low: float | None, clip_high: float) -> None:
        if clip_low is not None and not 0 <= clip_low < 1:
            raise ValueError(
                f"clip_low must be in [0, 1), got {clip_low}; the weight is at least 1 - clip_low, "
                "leave it out for no lower bound"
            )
        if not clip_high > 0:
            raise ValueError(
                f"clip_high must be > 0, got {clip_high}; the weight is at most 1 + clip_high, "
                "a cap of 5 is 4.0"
            )
        self.clip_low = clip_low
        self.clip_high = clip_high

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        low = -math.inf if self.clip_low is None else math.log1p(-self.clip_low)
        high = min(math.log1p(self.clip_high), MAX_LOG_RATIO)
        weight = log_ratio.detach().clamp(low, high).exp()
        loss = -weight * tokens.advantages * tokens.logprobs
        return SurrogateLoss.unclipped(loss, inside=(log_ratio >= low) & (log_ratio <= high))


@dataclass(eq=False)
class CISPO(Preset):
    """sum_it -sg[clip(r_it)] A_i log pi_it / sum_i L_i.

    Published: no lower bound. The upper bound is not in the paper; 4 is the cap of 5 of ScaleRL
    (arXiv:2510.13786).
    """

    clip_low: float | None = None
    clip_high: float = 4.0

    def parts(self) -> Parts:
        return TokenRatio(), CappedWeight(self.clip_low, self.clip_high), TokenMean()
