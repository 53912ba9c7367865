"""BNPO as TRL has it: the loss of GRPO, averaged over the tokens of each micro-batch."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import LocalTokenMean
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import Clipped


@dataclass(eq=False)
class BNPO(Preset):
    """(1/M) sum_m sum_{it in m} -min(r_it A_i, clip(r_it) A_i) / sum_{i in m} L_i, m micro-batches.

    The split changes it. With one sequence per micro-batch it is GRPO. With a single micro-batch
    it is the token mean of DAPO. It is here to compare with older runs. Published: clip 0.2 on
    both sides.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = field(default=None, kw_only=True)

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return TokenRatio(), clip, LocalTokenMean()
