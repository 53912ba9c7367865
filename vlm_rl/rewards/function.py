"""Rewards that are plain functions of the user's own, from a file or a package.

How they are called stands in `vlm_rl/rewards/own_function.py`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.judging import Judgement, JudgingTerm, Verdicts
from vlm_rl.rewards.own_function import OwnFunction, columns
from vlm_rl.rewards.own_process import Failure, OwnProcess
from vlm_rl.rewards.term import RewardTerm
from vlm_rl.show.log import Log

_logger = Log(__name__)


class _OfFunction(RewardTerm):
    """A term whose values come from a function, called in a process of its own."""

    def __init__(
        self, function: str, file: Path_fr | None, weight: float, timeout_s: float
    ) -> None:
        super().__init__(weight)
        if not 0 < timeout_s < float("inf"):
            raise ValueError(
                f"{type(self).__name__}.timeout_s must be a positive number of seconds, got "
                f"{timeout_s}; it bounds one call of the function"
            )
        self.own = OwnFunction(function, None if file is None else Path(file).resolve())
        self.reads_policy = self.own.reads_policy
        self._process = OwnProcess(self.own, timeout_s)

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        there = columns(problems)
        for name in self.own.needs():
            if name not in there:
                raise ValueError(
                    f"{self.own.place} needs a column {name!r}; the rows have {', '.join(there)}"
                )
        return []

    def close(self) -> None:
        self._process.close()

    def _answers(
        self, problems: Sequence[Problem], groups: Groups, verdicts: Verdicts
    ) -> list[list[float | Failure]]:
        """Return [P][G]; log what has failed."""
        answers = iter(self._process.answers((problems, groups, verdicts)))
        rows = [[self._accepted(next(answers)) for _ in group] for group in groups]
        first: dict[str, str] = {}
        times = Counter[str]()
        for problem, row in zip(problems, rows, strict=True):
            for column, answer in enumerate(row):
                if isinstance(answer, Failure):
                    where = f"completion {column} of problem {problem.uid!r}"
                    first.setdefault(answer.reason, where)
                    times[answer.reason] += 1
        for reason, where in first.items():
            self.last_failure = f": {self.own.place}: {reason}"
            _logger.warning(
                "%s has no value for %s, one of %d such: %s",
                *(self.own.place, where, times[reason], reason),
            )
        return rows

    def _accepted(self, answer: float | Failure) -> float | Failure:
        return answer


class Function(_OfFunction):
    """What `function` returns: its name in `file`, or `package.module.name` without a file.

    A relative `file` begins in the folder of the configuration that names it. The parameters say
    how it is called; see vlm_rl/rewards/own_function.py. It runs in a process of its own. One call
    has `timeout_s` seconds. A completion for which it takes longer, raises, or returns no finite
    number is not scored. Raises ValueError if there is no such function or its parameters fit no
    way of calling.
    """

    may_fail = True

    def __init__(
        self,
        function: str,
        file: Path_fr | None = None,
        weight: float = 1.0,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(function, file, weight, timeout_s)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        if self.own.reads_verdicts:
            raise ValueError(f"{self.own.place} reads verdicts; call `judged`")
        return self.judged(problems, groups, _nothing_said(groups))

    def judged(self, problems: Sequence[Problem], groups: Groups, verdicts: Verdicts) -> Tensor:
        """Return [P, G] float64, NaN for what could not be scored."""
        rows = self._answers(problems, groups, verdicts)
        nan = float("nan")
        numbers = [[nan if isinstance(a, Failure) else a for a in row] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64)


class JudgingFunction(_OfFunction, JudgingTerm):
    """Verdicts of a function: correct from `threshold` on, else wrong.

    The function is found and called as that of `Function`, and returns a number in [0, 1] or a
    truth value, which is also what the term adds. Any other number is a failure. A completion that
    failed has the verdict timeout or error.
    """

    def __init__(
        self,
        function: str,
        file: Path_fr | None = None,
        threshold: float = 0.5,
        weight: float = 1.0,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(function, file, weight, timeout_s)
        if not 0 < threshold <= 1:
            raise ValueError(
                f"JudgingFunction.threshold must be in (0, 1], got {threshold}; values from it on "
                "are correct"
            )
        if self.own.reads_verdicts:
            raise ValueError(f"{self.own.place} is to give verdicts, and cannot ask for them")
        self.threshold = threshold

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        rows = self._answers(problems, groups, _nothing_said(groups))
        values = [[0.0 if isinstance(a, Failure) else a for a in row] for row in rows]
        verdicts = [[self._verdict(answer) for answer in row] for row in rows]
        return Judgement(torch.tensor(values, dtype=torch.float64), verdicts)

    def _accepted(self, answer: float | Failure) -> float | Failure:
        if isinstance(answer, Failure) or 0 <= answer <= 1:
            return answer
        return Failure(f"it returned {answer:g}, which is not in [0, 1]")

    def _verdict(self, answer: float | Failure) -> Verdict:
        if isinstance(answer, Failure):
            return Verdict.TIMEOUT if answer.is_late else Verdict.ERROR
        return Verdict.CORRECT if answer >= self.threshold else Verdict.WRONG


def _nothing_said(groups: Groups) -> Verdicts:
    return [[Verdict.UNPARSABLE] * len(group) for group in groups]
