"""In which order: the training step, its updates, dynamic sampling and the settings of all three.

May import everything but `evaluation`, `run` and the entry points. A new group filter is a subclass
of `GroupFilter`.
"""

from vlm_rl.training.dynamic_sampling import GroupFilter, MixedVerdicts, SomeCorrect
from vlm_rl.training.oversampling import PredictedMixedVerdicts

__all__ = ["GroupFilter", "MixedVerdicts", "PredictedMixedVerdicts", "SomeCorrect"]
