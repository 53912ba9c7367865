"""The token form of GSPO (arXiv:2507.18071)."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import SequenceMeanOwnTokenRatio
from vlm_rl.objectives.surrogates import Clipped


@dataclass(eq=False)
class GSPOToken(Preset):
    """(1/N) sum_i (1/L_i) sum_t -min(s_it A_it, clip(s_it) A_it), s_it = sg[s_i] pi_it / sg[pi_it].

    GSPO for advantages that differ along a row. With one advantage per row it equals GSPO, in
    value and gradient. Published: clip 3e-4 below, 4e-4 above.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    dual_clip: float | None = field(default=None, kw_only=True)

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return SequenceMeanOwnTokenRatio(), clip, SequenceMeanOfTokenMeans()
