"""The interface of methods that shape rewards by the whole step or by what steps before it saw."""

import math
from abc import ABC, abstractmethod

from torch import Tensor

from vlm_rl.advantages.remembering import Remembering
from vlm_rl.records import Rollout


class Shaping(Remembering, ABC):
    """Adds `weight` times its values to the rewards of a step, and may change the advantages.

    A reward term sees one group; a shaping sees the groups of all ranks, the number of the step
    (`Rollout.step`) and its own state. It is asked in training only: a validation neither reads
    nor changes the state. `needs_all_right`: it pays groups that a filter on
    mixed verdicts would drop.
    """

    needs_all_right: bool = False

    def __init__(self, weight: float) -> None:
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"{type(self).__name__}.weight must be positive and finite, got {weight}; "
                "to train without it, set shaping to null"
            )
        self.weight = weight

    @abstractmethod
    def values(self, everyone: Rollout) -> Tensor:
        """Return [P, G] float64 for the groups that the step trains on, the same on every rank.

        The state does not change here. Values of completions that could not be scored are not read.
        """

    def advantages(self, advantages: Tensor, everyone: Rollout) -> Tensor:
        """Return the advantages [P, G], or [P, G, T] with one for each token, T at least the
        longest completion. What is 0 for all tokens of a completion is not trained on."""
        return advantages

    def monitors(self, step: int) -> int:
        """Return how many problems beside the batch to sample at `step`, from 0, for itself."""
        return 0

    def learn_monitored(self, everyone: Rollout) -> None:
        """Change the state by the groups that `monitors` has asked for, before `learn`."""
