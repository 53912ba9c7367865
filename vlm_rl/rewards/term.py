"""A reward term: a function of completions, and a weight."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem, Verdict


class RewardTerm(ABC):
    """One addend of the reward. Its values are logged before `weight` multiplies them."""

    def __init__(self, weight: float) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"{type(self).__name__}.weight must be finite and not negative, got {weight}; "
                "a punishment is a term with negative values"
            )
        self.weight = weight

    @abstractmethod
    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        """Return [P, G] float64, one value per completion."""

    def judged(
        self, problems: Sequence[Problem], groups: Groups, verdicts: Sequence[Sequence[Verdict]]
    ) -> Tensor:
        """Return the same, for a term that also looks at what the accuracy term says, [P][G]."""
        return self(problems, groups)


def each_completion(groups: Groups, value: Callable[[Completion], float]) -> Tensor:
    """Return [P, G] float64 of a term that looks at one completion at a time."""
    rows = [[value(completion) for completion in group] for group in groups]
    return torch.tensor(rows, dtype=torch.float64)
