"""DPPO (arXiv:2602.04879) in total variation: a trust region in probabilities, not in ratios."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import TokenMean
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO, Surrogate, SurrogateLoss
from vlm_rl.objectives.tokens import Tokens


class ProbabilityBand(Surrogate):
    """-sg[min(r, max_ratio)] A log pi for the tokens that are kept, 0 for the others.

    A token is dropped when its probability has already moved by more than `max_shift` in the
    direction of its advantage: pi - pi_old > max_shift with A > 0, or < -max_shift with A < 0. So
    the ratio of a rare token may change freely, that of a likely one hardly.
    """

    only_ratios = (TokenRatio,)
    through_ratio = False
    scales_with_advantage = True

    def __init__(self, max_shift: float, max_ratio: float) -> None:
        if not 0 < max_shift < 1:
            raise ValueError(
                f"max_shift must be in (0, 1), got {max_shift}; it is a difference of a token's "
                "probabilities, start from 0.1"
            )
        if not max_ratio > 1:
            raise ValueError(
                f"max_ratio must be > 1, got {max_ratio}; it caps the weight of a token, 20 is "
                "published"
            )
        self.max_shift = max_shift
        self.max_ratio = max_ratio

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        cap = min(math.log(self.max_ratio), MAX_LOG_RATIO)
        weight = log_ratio.detach().clamp(max=cap).exp()
        shift = tokens.logprobs.detach().exp() - tokens.old_logprobs.exp()
        low, high = shift < -self.max_shift, shift > self.max_shift
        clipped_low, clipped_high = low & (tokens.advantages < 0), high & (tokens.advantages > 0)
        loss = -weight * tokens.advantages * tokens.logprobs
        return SurrogateLoss(
            torch.where(clipped_low | clipped_high, 0.0, loss),
            inside=~low & ~high,
            clipped_low=clipped_low,
            clipped_high=clipped_high,
            clipped_dual=torch.zeros_like(low),
        )


@dataclass(eq=False)
class DPPO(Preset):
    """sum_it -keep_it sg[min(r_it, max_ratio)] A_i log pi_it / sum_i L_i (`ProbabilityBand`).

    Published: max_ratio 20. Not published here: `max_shift`, which has no default.
    """

    max_shift: float
    max_ratio: float = 20.0

    def parts(self) -> Parts:
        return TokenRatio(), ProbabilityBand(self.max_shift, self.max_ratio), TokenMean()
