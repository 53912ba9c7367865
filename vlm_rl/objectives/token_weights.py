"""Token weights: detached factors of the policy term, after the surrogate and before the KL.

They correct for a rollout engine whose probabilities differ from the trainer's, or leave tokens
out. A weight of 0 removes the gradient; the token and its sequence are still counted.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from vlm_rl.objectives.tokens import Tokens
from vlm_rl.records import Batch

Scalars = Mapping[str, Tensor]
"""What a part of an objective knows of a whole minibatch, over all ranks."""
AllSum = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks."""


class TokenWeight(ABC):
    """A factor of each token's policy loss; several multiply. Values in the padding are arbitrary.
    `per_sequence`: all tokens of a row get the same weight."""

    name: ClassVar[str]
    per_sequence: ClassVar[bool] = False
    corrects: ClassVar[bool] = False
    """Whether it turns an expectation over what the engine sampled into one over `old_logprobs`."""

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        """Count over the whole minibatch, before it is cut into forwards.

        So no cut can change the counts and thresholds. Most weights need none.
        """
        return {}

    @abstractmethod
    def __call__(self, tokens: Tokens, batch: Batch, scalars: Scalars) -> Tensor:
        """Return the factor of each token's policy loss, [B, T], without a gradient."""
