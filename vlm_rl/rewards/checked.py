"""Terms that the checking processes decide: letters of options, patterns."""

import re
from abc import abstractmethod
from collections.abc import Sequence

from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.accuracy import NO_ANSWER, best_of
from vlm_rl.rewards.answer_term import (
    Rated,
    SlotStyle,
    check_slot_style,
    judgement_of,
    slots,
    unusable_line,
)
from vlm_rl.rewards.judging import Judgement, JudgingTerm
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import FULL_MATCH
from vlm_rl.verification.pool import CheckerPool, Reading, read_answers
from vlm_rl.verification.self_test import self_test


class CheckedTerm(JudgingTerm):
    """1 for what a checking process calls correct, else 0.

    Answers that cannot be read are unparsable, different ones wrong. `timeout_s` seconds of CPU
    time and `memory_mb` bound each check, in one of `workers` processes: beyond, the verdict is
    timeout or error.
    """

    def __init__(
        self,
        answer_style: SlotStyle = "box",
        weight: float = 1.0,
        timeout_s: float = 2.0,
        workers: int = 1,
        memory_mb: int = 1024,
    ) -> None:
        super().__init__(weight)
        check_slot_style(answer_style, f"{type(self).__name__}.answer_style")
        self.answer_style = answer_style
        self.pool = CheckerPool(workers=workers, timeout_s=timeout_s, memory_mb=memory_mb)

    @abstractmethod
    def golds(self, problem: Problem) -> list[Gold]:
        """Return what decides a problem, any of which counts."""

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        """Return values [P, G] and verdicts [P][G]."""
        golds = [self.golds(problem) for problem in problems]
        asked = [
            (gold, slots(completion.text, problem.answer_style or self.answer_style))
            for problem, any_of, group in zip(problems, golds, groups, strict=True)
            for completion in group
            for gold in any_of
        ]
        readings = iter(read_answers(asked, self.pool))
        return judgement_of(
            [
                [_rated(best_of([next(readings) for _ in any_of])) for _ in group]
                for any_of, group in zip(golds, groups, strict=True)
            ]
        )

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        """Return a line for each gold that cannot be checked against."""
        golds = [(problem, gold) for problem in problems for gold in self.golds(problem)]
        checks = self.pool.check([(gold, NO_ANSWER) for _, gold in golds])
        return [
            unusable_line(self, problem, gold.answer, check.rule)
            for (problem, gold), check in zip(golds, checks, strict=True)
            if not check.verdict.scored
        ]

    def self_test(self) -> None:
        """Check pairs with a known verdict; raise RuntimeError naming the first that fails."""
        self_test(self.pool)

    def close(self) -> None:
        """End the checking processes."""
        self.pool.close()


class Choice(CheckedTerm):
    """1 for the letter of the right option, or for what the option says, else 0.

    As the verifier reads a choice, whatever the answer type of the row. Without options in the row
    the gold is a letter.
    """

    def golds(self, problem: Problem) -> list[Gold]:
        answers = (problem.answer, *problem.alternatives)
        return [Gold(answer, "choice", problem.choices or ()) for answer in answers]


class Regex(CheckedTerm):
    """1 for an answer that a pattern of Python's `re` matches as a whole, else 0.

    `pattern` is one for all problems; without it each gold is a pattern of its own. A pattern that
    takes more than `timeout_s` of CPU time on an answer gives timeout, and its process is replaced.
    """

    def __init__(
        self,
        pattern: str | None = None,
        answer_style: SlotStyle = "box",
        weight: float = 1.0,
        timeout_s: float = 2.0,
        workers: int = 1,
        memory_mb: int = 1024,
    ) -> None:
        super().__init__(answer_style, weight, timeout_s, workers, memory_mb)
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"Regex.pattern={pattern!r} is not a pattern: {error}") from error
        self.pattern = pattern

    def golds(self, problem: Problem) -> list[Gold]:
        golds = (problem.answer, *problem.alternatives)
        patterns = golds if self.pattern is None else (self.pattern,)
        return [Gold(pattern, FULL_MATCH) for pattern in patterns]


def _rated(reading: Reading) -> Rated:
    return Rated(float(reading.verdict is Verdict.CORRECT), reading.verdict, reading.rule)
