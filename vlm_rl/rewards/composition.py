"""The reward: a weighted sum of named terms, one of them the accuracy."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_rl.parts import PartError, check_values, named
from vlm_rl.records import Groups, Problem, Scores, Verdict
from vlm_rl.rewards.accuracy import Accuracy, accuracy_of
from vlm_rl.rewards.format import Format
from vlm_rl.rewards.term import RewardTerm

SMALLEST_SAMPLE = 64
"""A call with fewer completions counts as this many: one failure in four says little."""
_NAME = re.compile(r"\w[\w.-]*")
LENGTH = "length"
RESERVED = ("mean", "group_std", LENGTH, "kl")
"""Metrics beside `reward/<term>`, so no names of terms; nor is a name that ends in `_frac`."""


class Reward:
    """Sum of `terms` and of `length`, each times its weight.

    `length` is a term that shapes the length of answers. It stands apart, so that a configuration
    can set it without stating the others again. Use the reward as a context manager, or `close` it:
    the accuracy term keeps checking processes.

    There is exactly one accuracy term, because its verdicts say which completions count at all. No
    format term may weigh more than it: a policy would learn the form and stop there. If more than
    `max_unscored_frac` of a call's completions cannot be checked (timeout or error), the checker or
    the data set is at fault, and the run stops.
    """

    def __init__(
        self,
        terms: dict[str, RewardTerm],
        max_unscored_frac: float = 0.2,
        length: RewardTerm | None = None,
    ) -> None:
        if not 0 <= max_unscored_frac <= 1:
            raise ValueError(
                f"Reward.max_unscored_frac must be in [0, 1], got {max_unscored_frac}; "
                "it is the share of answers that may fail to be checked"
            )
        for name in terms:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"Reward.terms: {name!r:.60} names a metric, a column and panels; "
                    "use letters, digits, '_', '-' and '.'"
                )
            if name in RESERVED or name.endswith("_frac"):
                raise ValueError(
                    f"Reward.terms: {name!r} is the name of a metric of its own; rename the term"
                )
        accuracies = [term for term in terms.values() if isinstance(term, Accuracy)]
        if len(accuracies) != 1:
            raise ValueError(
                f"Reward.terms must hold exactly one Accuracy, got {len(accuracies)} in "
                f"{sorted(terms)}; add one with class_path vlm_rl.rewards.Accuracy, or merge them"
            )
        self.terms = terms if length is None else {**terms, LENGTH: length}
        self.accuracy = accuracies[0]
        self.max_unscored_frac = max_unscored_frac
        for name, term in terms.items():
            if isinstance(term, Format) and term.weight > self.accuracy.weight:
                raise ValueError(
                    f"Reward.terms.{name}.weight is {term.weight}, above the accuracy weight "
                    f"{self.accuracy.weight}; keep format below accuracy, such as 0.1 beside 0.9"
                )

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Scores:
        """Score [P][G] completions.

        A verdict of timeout or error gives a total of 0 and `Scores.scored` False: such completions
        belong in no statistic. Raises PartError if there are too many of them, and for a term that
        fails or does not return finite float64 values [P, G].
        """
        verdicts = self.accuracy.verdicts(problems, groups)
        self._refuse_failing_checks(problems, verdicts)
        terms = {
            name: accuracy_of(verdicts)
            if term is self.accuracy
            else _values(name, term, problems, groups, verdicts)
            for name, term in self.terms.items()
        }
        weighted = torch.stack([self.terms[name].weight * value for name, value in terms.items()])
        scored = torch.tensor([[verdict.scored for verdict in row] for row in verdicts])
        weights = {name: term.weight for name, term in self.terms.items()}
        return Scores(terms, torch.where(scored, weighted.sum(0), 0.0), verdicts, weights)

    def _refuse_failing_checks(
        self, problems: Sequence[Problem], verdicts: Sequence[Sequence[Verdict]]
    ) -> None:
        failed = [p for p, row in zip(problems, verdicts, strict=True) for v in row if not v.scored]
        total = sum(map(len, verdicts))
        if len(failed) > self.max_unscored_frac * max(total, SMALLEST_SAMPLE):
            raise PartError(
                f"{len(failed)} of {total} answers could not be checked, the first for problem "
                f"{failed[0].uid!r} with the gold {failed[0].answer!r:.100}; mend or remove such "
                "problems, or raise Reward.max_unscored_frac"
            )

    def self_test(self) -> None:
        """Check known pairs in the processes that will check the policy's answers.

        Raises RuntimeError naming the first that fails.
        """
        self.accuracy.self_test()

    def close(self) -> None:
        """End the checking processes."""
        self.accuracy.close()

    def __enter__(self) -> "Reward":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _values(
    name: str,
    term: RewardTerm,
    problems: Sequence[Problem],
    groups: Groups,
    verdicts: Sequence[Sequence[Verdict]],
) -> Tensor:
    place = f"reward term {name}"
    with named(term, place):
        values = term.judged(problems, groups, verdicts)
    shape = (len(groups), len(groups[0]) if groups else 0)
    return check_values(values, term, place, shape, [problem.uid for problem in problems])
