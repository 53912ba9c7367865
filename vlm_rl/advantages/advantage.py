"""The interface of advantage estimators, and the test for groups without a signal.

All is float64. A group without a signal is found by comparison, not by its standard deviation:
eight rewards of 0.9 have a float32 deviation of 6e-8, and dividing by it turns noise into
advantages.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from vlm_rl.advantages.remembering import Remembering
from vlm_rl.records import Rollout


class Advantage(Remembering, ABC):
    """Maps the rewards of a step's completions to advantages, relative to each other.

    `reads_terms`: it reads the terms of the reward and not their total.
    """

    reads_terms: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, rollout: Rollout) -> Tensor:
        """Return the advantages [P, G] float64 of a whole step's completions.

        Completions without a score are in no statistic and get 0. A group gets exactly 0 if it has
        fewer than two scored rewards, or if these are all equal; only an estimator that reads
        lengths too may learn from equal rewards (`CANON` with a `long_weight` below 1).
        """


def tells_apart(values: Tensor) -> bool:
    """Whether the scored rewards of a group [n] are at least two and not all equal."""
    return len(values) > 1 and bool(values.min() != values.max())


def refuse_epsilon(epsilon: float) -> None:
    """Raise ValueError if `epsilon` cannot be added to a deviation."""
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be >= 0, got {epsilon}; take 1e-6 or 1e-4")
