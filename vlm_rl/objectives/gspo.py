"""GSPO, its token form (arXiv:2507.18071), LUSPO (arXiv:2602.05261): ratios of whole sequences."""

from collections.abc import Sequence

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans, SequenceMeanOfTokenSums
from vlm_rl.objectives.objective import Objective
from vlm_rl.objectives.ratios import SequenceMeanOwnTokenRatio, SequenceMeanRatio
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.surrogates import Clipped
from vlm_rl.objectives.token_weights import TokenWeight


class GSPO(Objective):
    """(1/N) sum_i -min(s_i A_i, clip(s_i) A_i), s_i the geometric mean of the token ratios.

    Published: clip 3e-4 below, 4e-4 above. Each token weighs 1/L_i, which is what LUSPO undoes.
    """

    def __init__(
        self,
        clip_low: float = 3e-4,
        clip_high: float = 4e-4,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
        dual_clip: float | None = None,
    ) -> None:
        super().__init__(
            SequenceMeanRatio(),
            Clipped(clip_low, clip_high, dual_clip),
            SequenceMeanOfTokenMeans(),
            regularizers,
            token_weights,
        )


class GSPOToken(Objective):
    """(1/N) sum_i (1/L_i) sum_t -min(s_it A_it, clip(s_it) A_it), s_it = sg[s_i] pi_it / sg[pi_it].

    GSPO for advantages that differ along a row; with one per row it is GSPO, value and gradient.
    Published: clip 3e-4 below, 4e-4 above.
    """

    def __init__(
        self,
        clip_low: float = 3e-4,
        clip_high: float = 4e-4,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
        dual_clip: float | None = None,
    ) -> None:
        super().__init__(
            SequenceMeanOwnTokenRatio(),
            Clipped(clip_low, clip_high, dual_clip),
            SequenceMeanOfTokenMeans(),
            regularizers,
            token_weights,
        )


class LUSPO(Objective):
    """(1/N) sum_i L_i * -min(s_i A_i, clip(s_i) A_i): GSPO with each sequence times its length.

    Published: clip 2e-3 below, 2.5e-3 above. The length is the plain number of tokens, and the
    product is taken as a masked sum, so that a per-token regularizer is summed the same way.
    The gradient is about a mean length larger than GSPO's: look at `optim/grad_norm` before
    choosing a clipping norm, and give a KL term its own aggregation.
    """

    def __init__(
        self,
        clip_low: float = 2e-3,
        clip_high: float = 2.5e-3,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
        dual_clip: float | None = None,
    ) -> None:
        super().__init__(
            SequenceMeanRatio(),
            Clipped(clip_low, clip_high, dual_clip),
            SequenceMeanOfTokenSums(),
            regularizers,
            token_weights,
        )
