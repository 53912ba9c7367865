"""Objectives: compositions of ratio, surrogate, aggregation and regularizers, and their presets."""

from vlm_rl.objectives.aggregations import (
    Aggregation,
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
    TokenMean,
    masked_sum,
)
from vlm_rl.objectives.grpo import DAPO, GRPO, DrGRPO
from vlm_rl.objectives.gspo import GSPO, LUSPO
from vlm_rl.objectives.objective import POLICY_TERM, Loss, Objective
from vlm_rl.objectives.ratios import Ratio, SequenceMeanRatio, TokenRatio
from vlm_rl.objectives.regularizers import KL, Regularizer
from vlm_rl.objectives.surrogates import Clipped, Surrogate, SurrogateLoss

__all__ = [
    "DAPO",
    "GRPO",
    "GSPO",
    "KL",
    "LUSPO",
    "POLICY_TERM",
    "Aggregation",
    "Clipped",
    "DrGRPO",
    "Loss",
    "Objective",
    "Ratio",
    "Regularizer",
    "SequenceMeanOfScaledSums",
    "SequenceMeanOfTokenMeans",
    "SequenceMeanOfTokenSums",
    "SequenceMeanRatio",
    "Surrogate",
    "SurrogateLoss",
    "TokenMean",
    "TokenRatio",
    "masked_sum",
]
