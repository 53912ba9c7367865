"""Rewards of completions, [P, G]: correctness, format, length; summed by weight."""

from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.rewards.coin import Coin
from vlm_rl.rewards.composition import Reward
from vlm_rl.rewards.format import Format
from vlm_rl.rewards.kl import KLInReward
from vlm_rl.rewards.overlong import SoftOverlong
from vlm_rl.rewards.term import RewardTerm
from vlm_rl.rewards.trapezoid import LengthTrapezoid

__all__ = [
    "Accuracy",
    "Coin",
    "Format",
    "KLInReward",
    "LengthTrapezoid",
    "Reward",
    "RewardTerm",
    "SoftOverlong",
]
