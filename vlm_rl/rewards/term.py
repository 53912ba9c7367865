"""A reward term: a function of completions, and a weight."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem, Verdict


class RewardTerm(ABC):
    """One addend of the reward. Its values are logged before `weight` multiplies them.

    `may_fail`: a value may be NaN, of a completion that the term could not score; of any other term
    NaN stops the run. `last_failure` is empty or says, behind a colon, why that was. `shrinks`: as
    a factor it is below 1 for what it punishes, which is a gift where the reward is below 0.
    `reads_policy`: it reads `logprobs` and `entropies` of completions, which cost a forward.
    `needs_all_right`: it pays nothing but groups in which all is right.
    """

    may_fail: ClassVar[bool] = False
    shrinks: ClassVar[bool] = False
    last_failure: str = ""
    reads_policy: bool = False
    needs_all_right: ClassVar[bool] = False

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
        """Return the same, for a term that also looks at the verdicts that count, [P][G]."""
        return self(problems, groups)

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        """Return a line for each problem whose completions can get no value; asked once, before a
        model is loaded. Raises ValueError if the term does not fit the data set at all."""
        return []

    def close(self) -> None:  # noqa: B027 (most terms have nothing to end)
        """End processes and connections."""


def each_completion(groups: Groups, value: Callable[[Completion], float]) -> Tensor:
    """Return [P, G] float64 of a term that looks at one completion at a time."""
    rows = [[value(completion) for completion in group] for group in groups]
    return torch.tensor(rows, dtype=torch.float64)
