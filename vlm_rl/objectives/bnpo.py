"""BNPO as TRL has it: the loss of GRPO, averaged over the tokens of each micro-batch."""

from collections.abc import Sequence

from vlm_rl.objectives.aggregations import LocalTokenMean
from vlm_rl.objectives.objective import Objective
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.surrogates import Clipped
from vlm_rl.objectives.token_weights import TokenWeight


class BNPO(Objective):
    """(1/M) sum_m sum_{it in m} -min(r_it A_i, clip(r_it) A_i) / sum_{i in m} L_i, m micro-batches.

    Not invariant to the split: with one sequence per micro-batch it is GRPO, with a single
    micro-batch it is the token mean of DAPO. Here to compare with older runs. Published: clip 0.2
    on both sides.
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
        dual_clip: float | None = None,
    ) -> None:
        super().__init__(
            TokenRatio(),
            Clipped(clip_low, clip_high, dual_clip),
            LocalTokenMean(),
            regularizers,
            token_weights,
        )
