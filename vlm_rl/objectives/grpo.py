"""GRPO (arXiv:2402.03300) and what changes one piece of it: Dr.GRPO, the loss of DAPO."""

from collections.abc import Sequence

from vlm_rl.objectives.aggregations import (
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    TokenMean,
)
from vlm_rl.objectives.objective import Objective
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.surrogates import Clipped
from vlm_rl.objectives.token_weights import TokenWeight


class GRPO(Objective):
    """(1/N) sum_i (1/L_i) sum_t -min(r_it A_i, clip(r_it) A_i).

    Published: clip 0.2 on both sides. The paper's KL term (k3, coefficient 0.04) is the
    regularizer `KL`; later practice leaves it out, so it is not a default here.
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
            SequenceMeanOfTokenMeans(),
            regularizers,
            token_weights,
        )


class DrGRPO(Objective):
    """(1/N) sum_i (1/C) sum_t -min(r_it A_i, clip(r_it) A_i), C constant (arXiv:2503.20783).

    Published: clip 0.2, C the generation budget (3000), with the centred advantage (`Centered`).
    C has no default: the padded width, which others put there, changes from batch to batch.
    """

    def __init__(
        self,
        constant_tokens: int,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
        dual_clip: float | None = None,
    ) -> None:
        super().__init__(
            TokenRatio(),
            Clipped(clip_low, clip_high, dual_clip),
            SequenceMeanOfScaledSums(constant_tokens),
            regularizers,
            token_weights,
        )


class DAPO(Objective):
    """sum_it -min(r_it A_i, clip(r_it) A_i) / sum_i L_i with a wider upper end (arXiv:2503.14476).

    Published: clip 0.2 below, 0.28 above, no KL. This is the paper's loss; its soft overlong
    punishment is the reward term `SoftOverlong`.
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
        dual_clip: float | None = None,
    ) -> None:
        super().__init__(
            TokenRatio(),
            Clipped(clip_low, clip_high, dual_clip),
            TokenMean(),
            regularizers,
            token_weights,
        )
