"""Dr.GRPO (arXiv:2503.20783): GRPO with a constant in place of the length."""

from dataclasses import dataclass, field

from vlm_rl.objectives.aggregations import (
    SequenceMeanOfScaledSums,
)
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import Clipped


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
