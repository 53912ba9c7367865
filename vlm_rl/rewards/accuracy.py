"""The accuracy term: cut the answer out of each completion and check it against the gold."""

from collections.abc import Sequence

from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.judging import Judgement, JudgingTerm, values_of
from vlm_rl.show.log import Log
from vlm_rl.verification.extraction import ANSWER_STYLES, AnswerStyle, answers
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import infer_type
from vlm_rl.verification.pool import CheckerPool, Reading, read_answers
from vlm_rl.verification.self_test import self_test

NO_ANSWER = "?"
"""What no gold is, so that a check of it says whether the gold can be read."""
_logger = Log(__name__)


class Accuracy(JudgingTerm):
    """1 for a correct completion, 0 for every other.

    `answer_style` says where the answer is: `box` (the only `\\boxed{}` after the thinking), `tag`
    (`<answer>`) or `answer_line` (`Answer: 5`). A problem may name another style. `timeout_s` and
    `memory_mb` bound the check of one answer; `workers` is the number of checking processes.
    """

    def __init__(
        self,
        weight: float = 1.0,
        answer_style: AnswerStyle = "box",
        timeout_s: float = 2.0,
        workers: int = 1,
        memory_mb: int = 1024,
    ) -> None:
        super().__init__(weight)
        _check_style(answer_style, "Accuracy.answer_style")
        self.answer_style = answer_style
        self.pool = CheckerPool(workers=workers, timeout_s=timeout_s, memory_mb=memory_mb)

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        texts = [[completion.text for completion in group] for group in groups]
        readings = self.read(problems, texts)
        verdicts = [[reading.verdict for reading in row] for row in readings]
        rules = [[reading.rule for reading in row] for row in readings]
        return Judgement(values_of(verdicts), verdicts, rules=rules)

    def read(
        self, problems: Sequence[Problem], texts: Sequence[Sequence[str]]
    ) -> list[list[Reading]]:
        """Return [P][k] readings of the k texts given to each problem.

        No answer is unparsable, several different ones are wrong. Of several golds any counts. A
        gold that cannot be read gives error. Errors and timeouts are logged with the problem's uid.
        """
        assert len(problems) == len(texts), "one row of texts per problem"
        golds = [*map(golds_of, problems)]
        asked = [
            (gold, answers(text, self._style_of(problem)))
            for problem, any_of, row in zip(problems, golds, texts, strict=True)
            for text in row
            for gold in any_of
        ]
        readings = iter(read_answers(asked, self.pool))
        rows = [
            [best_of([next(readings) for _ in any_of]) for _ in row]
            for any_of, row in zip(golds, texts, strict=True)
        ]
        _log_failures(problems, rows)
        return rows

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        """Return a line for each problem whose gold cannot be read."""
        golds = [(problem, gold) for problem in problems for gold in golds_of(problem)]
        checks = self.pool.check([(gold, NO_ANSWER) for _, gold in golds])
        return [
            f"problem {problem.uid!r}: its answer {gold.answer!r:.100} cannot be read as a "
            f"{gold.answer_type}; mend it, or give its answer_type"
            for (problem, gold), check in zip(golds, checks, strict=True)
            if not check.verdict.scored
        ]

    def self_test(self) -> None:
        """Check pairs with a known verdict; raise RuntimeError naming the first that fails."""
        self_test(self.pool)

    def close(self) -> None:
        """End the checking processes."""
        self.pool.close()

    def _style_of(self, problem: Problem) -> str:
        if problem.answer_style is None:
            return self.answer_style
        _check_style(problem.answer_style, f"problem {problem.uid!r}: answer_style")
        return problem.answer_style


def golds_of(problem: Problem) -> list[Gold]:
    """Return what decides a problem, any of which counts; infer the types of answers that the data
    set leaves out."""
    return [gold_of(problem, answer) for answer in (problem.answer, *problem.alternatives)]


def gold_of(problem: Problem, answer: str | None = None) -> Gold:
    """Return one gold of a problem, the first unless another `answer` is given."""
    answer = problem.answer if answer is None else answer
    return Gold(
        answer=answer,
        answer_type=problem.answer_type or infer_type(answer, bool(problem.choices)),
        choices=problem.choices or (),
        unit=problem.unit,
        tolerance=tuple(sorted((problem.tolerance or {}).items())),
    )


def best_of(readings: Sequence[Reading]) -> Reading:
    """Return what several golds say of an answer: correct by any; not known if one that was not
    checked might have been the one."""
    correct = Verdict.CORRECT
    return min(readings, key=lambda each: (each.verdict is not correct, each.verdict.scored))


def _check_style(style: str, name: str) -> None:
    if style not in ANSWER_STYLES:
        raise ValueError(f"{name} must be one of {', '.join(ANSWER_STYLES)}, got {style!r}")


def _log_failures(problems: Sequence[Problem], readings: Sequence[Sequence[Reading]]) -> None:
    for problem, row in zip(problems, readings, strict=True):
        for reading in row:
            if not reading.verdict.scored:
                _logger.warning(
                    "problem %r: checking %.100r against the gold %.100r ended in %s (%s)",
                    *(problem.uid, reading.answer, problem.answer, reading.verdict, reading.rule),
                )
