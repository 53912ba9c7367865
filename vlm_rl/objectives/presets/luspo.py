"""LUSPO (arXiv:2602.05261): GSPO, each sequence times its length."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenSums
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import SequenceMeanRatio
from vlm_rl.objectives.surrogates import Clipped


@dataclass(eq=False)
class LUSPO(Preset):
    """(1/N) sum_i L_i * -min(s_i A_i, clip(s_i) A_i): GSPO with each sequence times its length.

    Published: clip 2e-3 below, 2.5e-3 above. The length is the plain number of tokens. The
    product is a masked sum, so a per-token regularizer is summed the same way. The gradient is
    larger than GSPO's by about the mean length: look at `optim/grad_norm` before choosing a
    clipping norm, and give a KL term its own aggregation.
    """

    clip_low: float = 2e-3
    clip_high: float = 2.5e-3
    dual_clip: float | None = field(default=None, kw_only=True)

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return SequenceMeanRatio(), clip, SequenceMeanOfTokenSums()
