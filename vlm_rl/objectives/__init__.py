"""What is learned from a batch: the objective, and its parts.

An objective composes ratio, surrogate, token weights, aggregation and regularizers. A method of
the literature is a `Preset` in a file of its own. May import: records, model.
"""

from vlm_rl.objectives.aggregations import (
    Aggregation,
    LocalTokenMean,
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
    TokenMean,
    masked_sum,
)
from vlm_rl.objectives.covariance import ClipCov, KLCov
from vlm_rl.objectives.distribution_matching import DistributionMatching, GroupMatch
from vlm_rl.objectives.entropy import EntropyBand, EntropyBonus
from vlm_rl.objectives.group_losses import GroupLoss
from vlm_rl.objectives.load_balance import LoadBalance
from vlm_rl.objectives.mismatch import (
    GeometricRejection,
    K3Rejection,
    OffPolicyMask,
    SequenceMIS,
    SequenceTIS,
    TokenMIS,
    TokenTIS,
)
from vlm_rl.objectives.objective import (
    POLICY_TERM,
    Loss,
    Objective,
    Plan,
    Sequences,
    TokenEffects,
)
from vlm_rl.objectives.presets.bnpo import BNPO
from vlm_rl.objectives.presets.cispo import CISPO, CappedWeight
from vlm_rl.objectives.presets.conspo import ConSPO, GroupContrast
from vlm_rl.objectives.presets.ctpo import CTPO, PositionBand
from vlm_rl.objectives.presets.dapo import DAPO
from vlm_rl.objectives.presets.dppo import DPPO, DPPOKL, BinaryKLBand, ProbabilityBand
from vlm_rl.objectives.presets.dr_grpo import DrGRPO
from vlm_rl.objectives.presets.fspo import FSPO, LengthBand
from vlm_rl.objectives.presets.gmpo import GMPO, ClippedGeometricMean
from vlm_rl.objectives.presets.grpo import GRPO
from vlm_rl.objectives.presets.gspo import GSPO
from vlm_rl.objectives.presets.gspo_token import GSPOToken
from vlm_rl.objectives.presets.luspo import LUSPO
from vlm_rl.objectives.presets.preset import Preset
from vlm_rl.objectives.presets.real import REAL, GroupLabels
from vlm_rl.objectives.presets.rloo import RLOO
from vlm_rl.objectives.presets.rloo_is import RLOOIS
from vlm_rl.objectives.presets.sapo import SAPO, SoftGate
from vlm_rl.objectives.presets.vespo import VESPO, SequenceKernel
from vlm_rl.objectives.ratios import (
    EngineSequenceSumRatio,
    PrefixSumRatio,
    Ratio,
    SequenceMeanOwnTokenRatio,
    SequenceMeanRatio,
    SequenceSumRatio,
    TokenRatio,
)
from vlm_rl.objectives.regularizers import KL, AdaptiveKL, CorrectedKL, Regularizer
from vlm_rl.objectives.state import Stateful
from vlm_rl.objectives.surrogates import (
    Clipped,
    OfGroups,
    Reinforce,
    Surrogate,
    SurrogateLoss,
)
from vlm_rl.objectives.token_weights import AllSum, Scalars, TokenWeight
from vlm_rl.objectives.tokens import Tokens

__all__ = [
    "BNPO",
    "CISPO",
    "CTPO",
    "DAPO",
    "DPPO",
    "DPPOKL",
    "FSPO",
    "GMPO",
    "GRPO",
    "GSPO",
    "KL",
    "LUSPO",
    "POLICY_TERM",
    "REAL",
    "RLOO",
    "RLOOIS",
    "SAPO",
    "VESPO",
    "AdaptiveKL",
    "Aggregation",
    "AllSum",
    "BinaryKLBand",
    "CappedWeight",
    "ClipCov",
    "Clipped",
    "ClippedGeometricMean",
    "ConSPO",
    "CorrectedKL",
    "DistributionMatching",
    "DrGRPO",
    "EngineSequenceSumRatio",
    "EntropyBand",
    "EntropyBonus",
    "GSPOToken",
    "GeometricRejection",
    "GroupContrast",
    "GroupLabels",
    "GroupLoss",
    "GroupMatch",
    "K3Rejection",
    "KLCov",
    "LengthBand",
    "LoadBalance",
    "LocalTokenMean",
    "Loss",
    "Objective",
    "OfGroups",
    "OffPolicyMask",
    "Plan",
    "PositionBand",
    "PrefixSumRatio",
    "Preset",
    "ProbabilityBand",
    "Ratio",
    "Regularizer",
    "Reinforce",
    "Scalars",
    "SequenceKernel",
    "SequenceMIS",
    "SequenceMeanOfScaledSums",
    "SequenceMeanOfTokenMeans",
    "SequenceMeanOfTokenSums",
    "SequenceMeanOwnTokenRatio",
    "SequenceMeanRatio",
    "SequenceSumRatio",
    "SequenceTIS",
    "Sequences",
    "SoftGate",
    "Stateful",
    "Surrogate",
    "SurrogateLoss",
    "TokenEffects",
    "TokenMIS",
    "TokenMean",
    "TokenRatio",
    "TokenTIS",
    "TokenWeight",
    "Tokens",
    "masked_sum",
]
