"""The loss of DAPO (arXiv:2503.14476): GRPO with a higher upper clip, averaged over tokens."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import (
    TokenMean,
)
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import Clipped


@dataclass(eq=False)
class DAPO(Preset):
    """sum_it -min(r_it A_i, clip(r_it) A_i) / sum_i L_i with a wider upper end (arXiv:2503.14476).

    Published: clip 0.2 below, 0.28 above, no KL. This is the paper's loss; its soft overlong
    punishment is the reward term `SoftOverlong`.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = field(default=None, kw_only=True)

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return TokenRatio(), clip, TokenMean()
