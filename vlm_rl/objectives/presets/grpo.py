"""GRPO (arXiv:2402.03300)."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import (
    SequenceMeanOfTokenMeans,
)
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import Clipped


@dataclass(eq=False)
class GRPO(Preset):
    """(1/N) sum_i (1/L_i) sum_t -min(r_it A_i, clip(r_it) A_i).

    Published: clip 0.2 on both sides. The paper's KL term (k3, coefficient 0.04) is the
    regularizer `KL`; later practice leaves it out, so it is not a default here.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = field(default=None, kw_only=True)

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return TokenRatio(), clip, SequenceMeanOfTokenMeans()
