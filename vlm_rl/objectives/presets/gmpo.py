"""GMPO (arXiv:2507.20673): the geometric mean of token ratios, each clipped before the mean."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans, masked_sum
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO, Surrogate, SurrogateLoss
from vlm_rl.objectives.tokens import Tokens


class ClippedGeometricMean(Surrogate):
    """-A exp(mean_t y_t), y_t = min(l_t, clip_high_log) if A > 0, max(l_t, -clip_low_log) if A < 0.

    A clipped token loses its gradient; the others of its row keep theirs. Each token carries the
    value of its row. The tokens of a row share one advantage.
    """

    only_ratios = (TokenRatio,)
    reduces_sequence = True
    scales_with_advantage = True

    def __init__(self, clip_low_log: float, clip_high_log: float) -> None:
        for name, value in (("clip_low_log", clip_low_log), ("clip_high_log", clip_high_log)):
            if not value > 0:
                raise ValueError(
                    f"{name} must be > 0, got {value}; it bounds a token's log-ratio, 0.4 is usual"
                )
        self.clip_low_log = clip_low_log
        self.clip_high_log = clip_high_log

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        low, high = -self.clip_low_log, self.clip_high_log
        positive, negative = tokens.advantages > 0, tokens.advantages < 0
        bounded = torch.where(positive, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
        mean = masked_sum(bounded, tokens.mask)[:, None] / tokens.lengths
        return SurrogateLoss(
            -torch.exp(mean.clamp(max=MAX_LOG_RATIO)) * tokens.advantages,
            inside=(log_ratio >= low) & (log_ratio <= high),
            clipped_low=(log_ratio < low) & negative,
            clipped_high=(log_ratio > high) & positive,
            clipped_dual=(mean > MAX_LOG_RATIO) & negative,
        )


@dataclass(eq=False)
class GMPO(Preset):
    """(1/N) sum_i -A_i exp((1/L_i) sum_t y_it), y the one-sidedly clipped log-ratios.

    Published: 0.4 on both sides, in log space: ratios from e^-0.4 to e^0.4. It takes no weights of
    single tokens, only weights of whole sequences.
    """

    clip_low_log: float = 0.4
    clip_high_log: float = 0.4

    def parts(self) -> Parts:
        mean = ClippedGeometricMean(self.clip_low_log, self.clip_high_log)
        return TokenRatio(), mean, SequenceMeanOfTokenMeans()
