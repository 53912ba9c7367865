"""Terms that pay or punish the length of a completion, in tokens, one file for each family.

A term sees one group at a time: a new one is a `GroupTerm` in a file here, exported below, with an
overlay in `configs/length/` and an oracle in `tests/support/length_oracles.py`. What remembers
something between steps is not a term.
"""

from vlm_rl.rewards.length.curves import CosineLength, FormatLength
from vlm_rl.rewards.length.group_term import GroupTerm
from vlm_rl.rewards.length.limits import (
    AccuracyLimit,
    LengthRange,
    LengthTrapezoid,
    SoftOverlong,
    Unfinished,
)
from vlm_rl.rewards.length.relative import GR3, ConciseR, KimiLength
from vlm_rl.rewards.length.targets import LASER, L1Exact, L1Max
from vlm_rl.rewards.length.uncertainty import PEAR

__all__ = [
    "GR3",
    "LASER",
    "PEAR",
    "AccuracyLimit",
    "ConciseR",
    "CosineLength",
    "FormatLength",
    "GroupTerm",
    "KimiLength",
    "L1Exact",
    "L1Max",
    "LengthRange",
    "LengthTrapezoid",
    "SoftOverlong",
    "Unfinished",
]
