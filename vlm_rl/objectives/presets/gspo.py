"""GSPO, its token form (arXiv:2507.18071), LUSPO (arXiv:2602.05261): ratios of whole sequences."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans, SequenceMeanOfTokenSums
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import SequenceMeanOwnTokenRatio, SequenceMeanRatio
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
