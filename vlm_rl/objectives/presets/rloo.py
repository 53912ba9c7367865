"""RLOO (arXiv:2402.14740): the plain policy gradient of whole sequences."""

from dataclasses import dataclass

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenSums
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import Reinforce


@dataclass(eq=False)
class RLOO(Preset):
    """-(1/N) sum_i A_i sum_t log pi_it: the plain policy gradient of whole sequences.

    It has no band, so run one update per rollout. It goes with the advantage `LeaveOneOut`, which
    gave it its name, and with the KL in the reward (published: 0.03).
    """

    def parts(self) -> Parts:
        return TokenRatio(), Reinforce(), SequenceMeanOfTokenSums()
