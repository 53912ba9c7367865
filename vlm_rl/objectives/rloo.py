"""RLOO (arXiv:2402.14740) and its form with importance sampling, FSPO's baseline."""

from collections.abc import Sequence

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans, SequenceMeanOfTokenSums
from vlm_rl.objectives.objective import Objective
from vlm_rl.objectives.ratios import SequenceSumRatio, TokenRatio
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.surrogates import Clipped, Reinforce
from vlm_rl.objectives.token_weights import TokenWeight


class RLOO(Objective):
    """-(1/N) sum_i A_i sum_t log pi_it: the plain policy gradient of whole sequences.

    Has no band: one update per rollout. Goes with the advantage `LeaveOneOut`, which gave it its
    name, and with the KL in the reward (published: 0.03).
    """

    def __init__(
        self,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
    ) -> None:
        super().__init__(
            TokenRatio(), Reinforce(), SequenceMeanOfTokenSums(), regularizers, token_weights
        )


class RLOOIS(Objective):
    """(1/N) sum_i -min(rho_i A_i, clip(rho_i) A_i), rho_i the ratio of the whole sequence.

    The baseline of FSPO (arXiv:2509.09177), whose clip is not published; 0.2 on both sides is
    that of TRL's RLOOTrainer. `dual_clip` is not in either: without it the loss of a long
    sequence with A < 0 has no bound; 3 is the value of arXiv:1912.09729.
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        dual_clip: float = 3.0,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
    ) -> None:
        super().__init__(
            SequenceSumRatio(),
            Clipped(clip_low, clip_high, dual_clip),
            SequenceMeanOfTokenMeans(),
            regularizers,
            token_weights,
        )
