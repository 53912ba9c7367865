"""FSPO (arXiv:2509.09177): full-sequence ratios, clipped in log space by a band like sqrt(length).

The first version of the paper is inconsistent in the sign of its drift term, so each reading has a
name here: see `LengthBand`. The constants are not published, so they have no defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import SequenceSumRatio
from vlm_rl.objectives.state import Stateful
from vlm_rl.objectives.surrogates import Surrogate, SurrogateLoss, log_band_loss
from vlm_rl.objectives.tokens import Tokens


class LengthBand(Surrogate, Stateful):
    """-min(e^S A, e^clip(S, low, high) A), S the sum of a sequence's log-ratios, L its length.

    `drift` says where the band lies, m being a running average of the token log-ratio:
    "none"    [-c_low sqrt(L), c_high sqrt(L)]; later versions of the paper, the default
    "centre"  [m L - c_low sqrt(L), m L + c_high sqrt(L)], widened to hold 0 where it would not:
              the Gaussian argument of the paper's section 2
    "widen"   [-(|m| L + c_low sqrt(L)), |m| L + c_high sqrt(L)]: its equations 1 and 3 to 5 as
              written, with |m| where the printed sign would turn the band inside out

    For A < 0 the loss stays below -A exp(c_dual sqrt(L)), or below that of the band's upper end if
    a drift has moved it higher. m starts at 0. Each minibatch uses m and
    then updates it: `m <- (1 - ema_rate) m + ema_rate * (mean over the minibatch's tokens)`. With
    drift "none" it stays 0. Raises ValueError if the constants do not make a band.
    """

    only_ratios = (SequenceSumRatio,)
    scales_with_advantage = True

    def __init__(
        self,
        clip_low_log: float,
        clip_high_log: float,
        dual_clip_log: float,
        drift: Literal["none", "centre", "widen"] = "none",
        ema_rate: float | None = None,
    ) -> None:
        for name, value in (("clip_low_log", clip_low_log), ("clip_high_log", clip_high_log)):
            if not value > 0:
                raise ValueError(
                    f"{name} must be > 0, got {value}; it is the band's half width for a sequence "
                    "of one token, in log space; about twice the deviation of a token log-ratio"
                )
        if not dual_clip_log > clip_high_log:
            raise ValueError(
                f"dual_clip_log must be above clip_high_log = {clip_high_log}, got "
                f"{dual_clip_log}; without it a long sequence with A < 0 has an unbounded loss"
            )
        if (ema_rate is None) != (drift == "none"):
            raise ValueError(
                f"ema_rate is {ema_rate} with drift {drift!r}; a drift needs the rate of its "
                "running average, give 0.1; without a drift leave ema_rate out"
            )
        if ema_rate is not None and not 0 < ema_rate <= 1:
            raise ValueError(
                f"ema_rate must be in (0, 1], got {ema_rate}; it is the weight of the newest "
                "minibatch in the running average, such as 0.1"
            )
        self.clip_low_log = clip_low_log
        self.clip_high_log = clip_high_log
        self.dual_clip_log = dual_clip_log
        self.drift = drift
        self.ema_rate = ema_rate
        self.mean_log_ratio = 0.0

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        low, high = self.band(tokens.lengths)
        # nothing inside the band loses its gradient, also where a drift has widened it
        dual = torch.maximum(self.dual_clip_log * tokens.lengths.double().sqrt(), high)
        return log_band_loss(log_ratio, tokens.advantages, low, high, dual)

    def band(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper end for `lengths`, float64 and of the same shape."""
        lengths = lengths.double()
        root = lengths.sqrt()
        low, high = -self.clip_low_log * root, self.clip_high_log * root
        shift = self.mean_log_ratio * lengths
        match self.drift:
            case "none":
                return low, high
            case "centre":
                # an unmoved sequence is never clipped, however far the average has drifted
                return (low + shift).clamp(max=0), (high + shift).clamp(min=0)
            case "widen":
                return low - abs(shift), high + abs(shift)

    @property
    def observes(self) -> bool:
        return self.ema_rate is not None

    def observe(self, metrics: Mapping[str, float]) -> None:
        if self.ema_rate is None:
            return
        moved = -metrics["policy/old_kl"]
        self.mean_log_ratio += self.ema_rate * (moved - self.mean_log_ratio)

    def state_dict(self) -> dict[str, Any]:
        return {"mean_log_ratio": self.mean_log_ratio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean_log_ratio = state["mean_log_ratio"]


@dataclass(eq=False)
class FSPO(Preset):
    """(1/N) sum_i -min(e^S_i A_i, e^clip(S_i) A_i), the band as wide as sqrt(L): `LengthBand`.

    Not published, so without defaults: c (the half widths), the dual clip, the rate of the running
    average. Token log-ratios of deviation 0.02 and a band of two deviations give c = 0.04. At
    ratio 1 a token weighs 1/N, as in LUSPO.
    """

    clip_low_log: float
    clip_high_log: float
    dual_clip_log: float
    drift: Literal["none", "centre", "widen"] = "none"
    ema_rate: float | None = None

    def parts(self) -> Parts:
        clip = (self.clip_low_log, self.clip_high_log, self.dual_clip_log)
        band = LengthBand(*clip, self.drift, self.ema_rate)
        return SequenceSumRatio(), band, SequenceMeanOfTokenMeans()
