"""What an advantage estimator is, and which groups say nothing.

Everything is float64, and groups that say nothing are found by comparing, not by a standard
deviation: eight rewards of 0.9 have a float32 deviation of 6e-8, and dividing by it makes noise
into advantages.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from vlm_rl.records import Rollout


class Advantage(ABC):
    """Rewards of a step's completions, relative to each other."""

    @abstractmethod
    def __call__(self, rollout: Rollout) -> Tensor:
        """Advantages [P, G] float64 of a whole step's completions.

        Completions that could not be scored are in no statistic and get 0. A group whose scored
        rewards are all equal, or that has fewer than two, gets exactly 0.
        """


def tells_apart(values: Tensor) -> bool:
    """Whether the scored rewards of a group [n] are at least two and not all equal."""
    return len(values) > 1 and bool(values.min() != values.max())


def refuse_epsilon(epsilon: float) -> None:
    """Raise ValueError for what can not be added to a deviation."""
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be >= 0, got {epsilon}; usual values are 1e-6, 1e-4")
