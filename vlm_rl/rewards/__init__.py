"""What is a completion worth? Correctness, format and length, [P, G], summed by weight.

May import `verification`, `objectives.regularizers` and `records`; sees no model or configuration.
A new term is a subclass of `RewardTerm` in a file here, exported below; its test is in
`tests/rewards/`.
"""

from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.rewards.coin import Coin
from vlm_rl.rewards.composition import Reward
from vlm_rl.rewards.format import Format
from vlm_rl.rewards.function import Function
from vlm_rl.rewards.judging import Judgement, JudgingTerm
from vlm_rl.rewards.kl import KLInReward
from vlm_rl.rewards.length import LengthTrapezoid, SoftOverlong
from vlm_rl.rewards.term import RewardTerm

__all__ = [
    "Accuracy",
    "Coin",
    "Format",
    "Function",
    "Judgement",
    "JudgingTerm",
    "KLInReward",
    "LengthTrapezoid",
    "Reward",
    "RewardTerm",
    "SoftOverlong",
]
