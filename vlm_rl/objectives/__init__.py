"""Objectives: compositions of ratio, surrogate, token weights, aggregation and regularizers, and
their presets."""

from vlm_rl.objectives.aggregations import (
    Aggregation,
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
    TokenMean,
    masked_sum,
)
from vlm_rl.objectives.fspo import FSPO, LengthBand
from vlm_rl.objectives.grpo import DAPO, GRPO, DrGRPO
from vlm_rl.objectives.gspo import GSPO, LUSPO
from vlm_rl.objectives.objective import POLICY_TERM, Loss, Objective, Plan, Sequences
from vlm_rl.objectives.ratios import Ratio, SequenceMeanRatio, SequenceSumRatio, TokenRatio
from vlm_rl.objectives.regularizers import KL, Regularizer
from vlm_rl.objectives.rloo import RLOO, RLOOIS
from vlm_rl.objectives.state import Stateful
from vlm_rl.objectives.surrogates import Clipped, Reinforce, Surrogate, SurrogateLoss
from vlm_rl.objectives.token_weights import AllSum, Scalars, TokenWeight
from vlm_rl.objectives.tokens import Tokens

__all__ = [
    "DAPO",
    "FSPO",
    "GRPO",
    "GSPO",
    "KL",
    "LUSPO",
    "POLICY_TERM",
    "RLOO",
    "RLOOIS",
    "Aggregation",
    "AllSum",
    "Clipped",
    "DrGRPO",
    "LengthBand",
    "Loss",
    "Objective",
    "Plan",
    "Ratio",
    "Regularizer",
    "Reinforce",
    "Scalars",
    "SequenceMeanOfScaledSums",
    "SequenceMeanOfTokenMeans",
    "SequenceMeanOfTokenSums",
    "SequenceMeanRatio",
    "SequenceSumRatio",
    "Sequences",
    "Stateful",
    "Surrogate",
    "SurrogateLoss",
    "TokenMean",
    "TokenRatio",
    "TokenWeight",
    "Tokens",
    "masked_sum",
]
