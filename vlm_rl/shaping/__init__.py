"""What a training step adds to its rewards once the groups of all ranks are known.

A new method subclasses `Shaping`. May import: records, advantages, rewards, metrics.
"""

from vlm_rl.shaping.ceeh import CEEH
from vlm_rl.shaping.grpo_lambda import GRPOLambda
from vlm_rl.shaping.hapo import HAPO
from vlm_rl.shaping.laser_d import LaserD
from vlm_rl.shaping.scheduled import Scheduled
from vlm_rl.shaping.shaping import Shaping

__all__ = ["CEEH", "HAPO", "GRPOLambda", "LaserD", "Scheduled", "Shaping"]
