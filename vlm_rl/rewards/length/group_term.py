"""What length terms share: their values are a function of one group and of what is said of it."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem, Verdict
from vlm_rl.rewards.term import RewardTerm


class GroupTerm(RewardTerm):
    """A term that looks at one group, its problem and its verdicts, and at no other group."""

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        """Return the values if no completion is right."""
        return self.judged(problems, groups, [[Verdict.WRONG] * len(group) for group in groups])

    def judged(
        self, problems: Sequence[Problem], groups: Groups, verdicts: Sequence[Sequence[Verdict]]
    ) -> Tensor:
        rows = [self.of_group(*one) for one in zip(problems, groups, verdicts, strict=True)]
        return torch.tensor(rows, dtype=torch.float64)

    @abstractmethod
    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        """Return a value for each completion; that of an unscored one is never read."""


class RowTerm(GroupTerm):
    """A term that needs something of each problem's row, under `key` of its `meta`.

    A completion of a problem without it is not scored, and `unusable` names the problem.
    """

    may_fail = True

    def __init__(self, key: str, weight: float) -> None:
        super().__init__(weight)
        if not key:
            raise ValueError(f"{type(self).__name__}.key must name a key of meta, got {key!r}")
        self.key = key

    @abstractmethod
    def wanted(self, said: Any) -> str | None:
        """Return what is wrong with the value of a row, None if nothing is."""

    def fault(self, problem: Problem) -> str | None:
        """Return a line for a problem that the term cannot use, None for any other."""
        if self.key not in problem.meta:
            wrong = "is not there"
        else:
            said = self.wanted(problem.meta[self.key])
            if said is None:
                return None
            wrong = f"is {problem.meta[self.key]!r:.60}; {said}"
        return (
            f"problem {problem.uid!r}: {type(self).__name__} reads meta[{self.key!r}], which "
            f"{wrong}; give the row a column {self.key}{self.remedy}"
        )

    remedy = ""
    """Another way out than a column, for the line of a problem without its value."""

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        return [fault for problem in problems if (fault := self.fault(problem)) is not None]

    def of_row(
        self, problem: Problem, group: Sequence[Completion], value: Callable[[Any, int], float]
    ) -> list[float]:
        """Return `value` of what the row says and of each length; NaN without a usable row."""
        fault = self.fault(problem)
        if fault is not None:
            self.last_failure = f": {fault}"
            return [math.nan] * len(group)
        return [value(problem.meta[self.key], len(completion)) for completion in group]


def right(verdict: Verdict) -> bool:
    return verdict is Verdict.CORRECT


def scored_lengths(group: Sequence[Completion], verdicts: Sequence[Verdict]) -> list[int]:
    """Return the lengths of the completions that could be checked: all that statistics are of."""
    return [len(c) for c, verdict in zip(group, verdicts, strict=True) if verdict.scored]


def refuse_unfit(term: object, needs: Mapping[str, tuple[float, bool, str]]) -> None:
    """Raise ValueError for the first argument that is not finite or not as it must be.

    `needs` maps the name of each argument to its value, whether that is good, and the rule.
    """
    for name, (value, good, rule) in needs.items():
        if not (math.isfinite(value) and good):
            raise ValueError(f"{type(term).__name__}.{name} must be {rule}, got {value}")
