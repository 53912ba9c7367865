"""How good is each completion beside the others: rewards [P, G] to advantages [P, G].

A new estimator subclasses `Advantage`, or `PerGroup` if it sees one group at a time. May import:
records.
"""

from vlm_rl.advantages.advantage import Advantage
from vlm_rl.advantages.canon import CANON
from vlm_rl.advantages.canon_entropy import CANONEntropy
from vlm_rl.advantages.ema_normalized import EMANormalized
from vlm_rl.advantages.per_batch import (
    BatchNormalized,
    ComponentNormalized,
    RankGaussian,
    Whitened,
    WhitenedWithBonus,
    gaussian_ranks,
)
from vlm_rl.advantages.per_group import (
    Centered,
    LeaveOneOut,
    LengthWeightedBaseline,
    MaxRL,
    Normalized,
    OneWinner,
    PerGroup,
)
from vlm_rl.advantages.verdict_signs import VerdictSigns

__all__ = [
    "CANON",
    "Advantage",
    "BatchNormalized",
    "CANONEntropy",
    "Centered",
    "ComponentNormalized",
    "EMANormalized",
    "LeaveOneOut",
    "LengthWeightedBaseline",
    "MaxRL",
    "Normalized",
    "OneWinner",
    "PerGroup",
    "RankGaussian",
    "VerdictSigns",
    "Whitened",
    "WhitenedWithBonus",
    "gaussian_ranks",
]
