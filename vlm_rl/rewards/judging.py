"""Terms that judge: what they say of a completion decides whether it is right."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.term import RewardTerm

Verdicts = Sequence[Sequence[Verdict]]
"""[P][G]: what is said of each completion."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """`values` [P, G] float64, before the weight, and `verdicts` [P][G].

    The value of a completion that could not be checked is never read. `measures` [P, G] float64 are
    logged as means, `reward/<term>/<measure>`; NaN is in none. `rules` [P][G] say what decided each
    verdict; none at all if the term does not say.
    """

    values: Tensor
    verdicts: Verdicts
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    rules: Sequence[Sequence[str]] = ()


class JudgingTerm(RewardTerm):
    """A term with verdicts. One of a reward's says which completions are right, see `Reward`."""

    @abstractmethod
    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        """Judge the completions [P][G]; one that cannot be checked is timeout or error."""

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        return self.judge(problems, groups).values

    def self_test(self) -> None:
        """Check what has a known verdict; raise RuntimeError naming the first that fails."""

    def judges(self) -> Sequence["JudgingTerm"]:
        """Return this term, or those that it is made of."""
        return [self]


def values_of(verdicts: Verdicts) -> Tensor:
    """Return [P, G] float64: 1 for correct, else 0."""
    rows = [[float(verdict is Verdict.CORRECT) for verdict in row] for row in verdicts]
    return torch.tensor(rows, dtype=torch.float64)
