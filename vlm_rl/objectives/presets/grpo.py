"""GRPO (arXiv:2402.03300) and what changes one piece of it: Dr.GRPO, the loss of DAPO."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import (
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    TokenMean,
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


@dataclass(eq=False)
class DrGRPO(Preset):
    """(1/N) sum_i (1/C) sum_t -min(r_it A_i, clip(r_it) A_i), C constant (arXiv:2503.20783).

    Published: clip 0.2, C the generation budget (3000), with the centred advantage (`Centered`).
    C has no default. Other code takes the padded width, which changes from batch to batch.
    """

    constant_tokens: int
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = field(default=None, kw_only=True)

    def parts(self) -> Parts:
        clip = Clipped(self.clip_low, self.clip_high, self.dual_clip)
        return TokenRatio(), clip, SequenceMeanOfScaledSums(self.constant_tokens)


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
