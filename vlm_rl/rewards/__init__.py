"""What is a completion worth? Correctness, format and length, [P, G], summed by weight.

May import `verification`, `objectives.regularizers` and `records`; sees no model or configuration.
A new term is a subclass of `RewardTerm` in a file here, exported below; its test is in
`tests/rewards/`. Terms of length have a folder.
"""

from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.rewards.checked import Choice, Regex
from vlm_rl.rewards.coin import Coin
from vlm_rl.rewards.composition import Reward
from vlm_rl.rewards.format import Format
from vlm_rl.rewards.function import Function, JudgingFunction
from vlm_rl.rewards.grounding import BoxGIoU, BoxIoU, PointInBox
from vlm_rl.rewards.json_match import JsonMatch
from vlm_rl.rewards.judge import Judge
from vlm_rl.rewards.judging import Judgement, JudgingTerm
from vlm_rl.rewards.kl import KLInReward
from vlm_rl.rewards.length import (
    GR3,
    LASER,
    PEAR,
    AccuracyLimit,
    ConciseR,
    CosineLength,
    FormatLength,
    KimiLength,
    L1Exact,
    L1Max,
    LengthRange,
    LengthTrapezoid,
    SoftOverlong,
    Unfinished,
)
from vlm_rl.rewards.route import Route
from vlm_rl.rewards.term import RewardTerm
from vlm_rl.rewards.text_match import ANLS, ExactMatch, RelaxedNumber

__all__ = [
    "ANLS",
    "GR3",
    "LASER",
    "PEAR",
    "Accuracy",
    "AccuracyLimit",
    "BoxGIoU",
    "BoxIoU",
    "Choice",
    "Coin",
    "ConciseR",
    "CosineLength",
    "ExactMatch",
    "Format",
    "FormatLength",
    "Function",
    "JsonMatch",
    "Judge",
    "Judgement",
    "JudgingFunction",
    "JudgingTerm",
    "KLInReward",
    "KimiLength",
    "L1Exact",
    "L1Max",
    "LengthRange",
    "LengthTrapezoid",
    "PointInBox",
    "Regex",
    "RelaxedNumber",
    "Reward",
    "RewardTerm",
    "Route",
    "SoftOverlong",
    "Unfinished",
]
