"""CTPO (arXiv:2605.07331): ratios of prefixes, in a band that widens with the position."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import PrefixSumRatio
from vlm_rl.objectives.surrogates import Surrogate, SurrogateLoss, log_band_loss
from vlm_rl.objectives.tokens import Tokens


class PositionBand(Surrogate):
    """-min(rho_t A, e^clip(log rho_t, -clip_low_log t^p, clip_high_log t^p) A), t = 1, 2, ...

    For A < 0 the loss stays below -A exp(dual_clip_log t^p).
    """

    only_ratios = (PrefixSumRatio,)
    scales_with_advantage = True

    def __init__(
        self, clip_low_log: float, clip_high_log: float, dual_clip_log: float, power: float
    ) -> None:
        for name, value in (("clip_low_log", clip_low_log), ("clip_high_log", clip_high_log)):
            if not value > 0:
                raise ValueError(
                    f"{name} must be > 0, got {value}; it bounds the log-ratio of the first token, "
                    "values near 0.05 are usual"
                )
        if not dual_clip_log >= clip_high_log:
            raise ValueError(
                f"dual_clip_log must be at least clip_high_log = {clip_high_log}, got "
                f"{dual_clip_log}; a smaller one cuts off sequences that have not moved far"
            )
        if not power >= 0:
            raise ValueError(
                f"power must be >= 0, got {power}; 0.5 follows a random walk, 0 is a constant band"
            )
        self.clip_low_log = clip_low_log
        self.clip_high_log = clip_high_log
        self.dual_clip_log = dual_clip_log
        self.power = power

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        width = tokens.mask.shape[1]
        position = torch.arange(1, width + 1, dtype=torch.float64, device=tokens.mask.device)
        scale = position**self.power
        return log_band_loss(
            log_ratio,
            tokens.advantages,
            -self.clip_low_log * scale,
            self.clip_high_log * scale,
            self.dual_clip_log * scale,
        )


@dataclass(eq=False)
class CTPO(Preset):
    """(1/N) sum_i (1/L_i) sum_t -min(rho_it A_i, e^clip(log rho_it) A_i), rho the prefix ratios.

    A token's gradient goes only through its own probability. Published: band from -0.025 sqrt(t)
    to 0.05 sqrt(t), dual clip at 0.05 sqrt(t), all in log space; with sequence-level truncated
    weights against the engine's mismatch, at most 5.
    """

    clip_low_log: float = 0.025
    clip_high_log: float = 0.05
    dual_clip_log: float = 0.05
    power: float = 0.5

    def parts(self) -> Parts:
        band = PositionBand(self.clip_low_log, self.clip_high_log, self.dual_clip_log, self.power)
        return PrefixSumRatio(), band, SequenceMeanOfTokenMeans()
