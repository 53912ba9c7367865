"""What a training step changes of its completions, before a filter chooses among the groups.

A new method subclasses `RolloutEdit`. May import: records, rewards, metrics, rollout.
"""

from vlm_rl.edits.dot import DOT
from vlm_rl.edits.edit import RolloutEdit

__all__ = ["DOT", "RolloutEdit"]
