"""RLOO with importance sampling, the baseline of FSPO (arXiv:2509.09177)."""

from dataclasses import dataclass

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import SequenceSumRatio
from vlm_rl.objectives.surrogates import Clipped


@dataclass(eq=False)
class RLOOIS(Preset):
    """(1/N) sum_i -min(rho_i A_i, clip(rho_i) A_i), rho_i the ratio of the whole sequence.

    The baseline of FSPO (arXiv:2509.09177), whose clip is not published; 0.2 on both sides is
    that of TRL's RLOOTrainer. `dual_clip` is in neither: without it the loss of a long sequence
    with A < 0 has no bound; 3 is the value of arXiv:1912.09729.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return SequenceSumRatio(), clip, SequenceMeanOfTokenMeans()
