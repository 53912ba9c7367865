"""Token weights: detached factors of the policy term, after the surrogate and before the KL.

They correct for a rollout engine whose probabilities are not the trainer's, or leave tokens out.
A weight of 0 takes the gradient, not the place: such a sequence is still counted.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from vlm_rl.objectives.tokens import Tokens
from vlm_rl.records import Batch

Scalars = Mapping[str, Tensor]
"""What a part of an objective found out about a whole minibatch, over all processes."""
AllSum = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""


class TokenWeight(ABC):
    """Several are multiplied. Values in the padding are arbitrary. `per_sequence`: all tokens of a
    row get the same."""

    name: ClassVar[str]
    per_sequence: ClassVar[bool] = False

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        """Once per minibatch, before it is cut into forwards: counts and thresholds over all of it,
        so that no cut can change them. Most need none."""
        return {}

    @abstractmethod
    def __call__(self, tokens: Tokens, batch: Batch, scalars: Scalars) -> Tensor:
        """Factor of each token's policy loss, [B, T], without gradient."""
