"""GSPO (arXiv:2507.18071): ratios of whole sequences."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import SequenceMeanRatio
from vlm_rl.objectives.surrogates import Clipped


@dataclass(eq=False)
class GSPO(Preset):
    """(1/N) sum_i -min(s_i A_i, clip(s_i) A_i), s_i the geometric mean of the token ratios.

    Published: clip 3e-4 below, 4e-4 above. Each token weighs 1/L_i, which is what LUSPO undoes.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    dual_clip: float | None = field(default=None, kw_only=True)

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return SequenceMeanRatio(), clip, SequenceMeanOfTokenMeans()
