"""Terms that cut one answer out of each completion, read it, and compare it with the golds."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

import torch

from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.judging import Judgement, JudgingTerm
from vlm_rl.show.log import Log
from vlm_rl.verification.extraction import after_thinking, answers
from vlm_rl.verification.gold import GoldUnparsable, Unparsable

SlotStyle = Literal["box", "tag", "answer_line", "bare"]
SLOT_STYLES: tuple[str, ...] = get_args(SlotStyle)
_logger = Log(__name__)

Expected = TypeVar("Expected")
Given = TypeVar("Given")


class Rated(NamedTuple):
    """What a completion's answer is worth beside one gold, whether it is right, and what decided
    that."""

    value: float
    verdict: Verdict
    rule: str = ""


class AnswerTerm(JudgingTerm, Generic[Expected, Given]):
    """A term whose answers stand where `answer_style` says.

    `box` is the only `\\boxed{}` after the thinking, `tag` is `<answer>`, `answer_line` is
    `Answer: 5`, `bare` is all text after the thinking. A problem may name another style. No answer,
    or one that cannot be read, is unparsable; several that differ are wrong; both are worth
    `lowest`. Of several golds the best counts. A gold that cannot be read is an error.
    """

    lowest = 0.0

    def __init__(self, weight: float, answer_style: SlotStyle) -> None:
        super().__init__(weight)
        check_slot_style(answer_style, f"{type(self).__name__}.answer_style")
        self.answer_style = answer_style

    @abstractmethod
    def gold(self, problem: Problem, answer: str) -> Expected:
        """Read one gold of a problem. Raises GoldUnparsable."""

    @abstractmethod
    def given(self, problem: Problem, text: str) -> Sequence[Given]:
        """Read the answers that stand in a slot. Raises Unparsable."""

    @abstractmethod
    def compare(self, gold: Expected, given: Given) -> Rated:
        """Rule on an answer beside one gold."""

    def check_gold(self, problem: Problem, answer: str) -> None:
        """Raise GoldUnparsable for a gold that cannot be used; asked before images are resized."""
        self.gold(problem, answer)

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        """Return values [P, G] and verdicts [P][G]."""
        rows = []
        for problem, group in zip(problems, groups, strict=True):
            golds = self._golds(problem)
            rulings = [self._ruling(problem, golds, completion.text) for completion in group]
            rows.append([r if r.rule else r._replace(rule=type(self).__name__) for r in rulings])
        return judgement_of(rows)

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        """Return a line for each gold that this term cannot use."""
        lines = []
        for problem in problems:
            for answer in (problem.answer, *problem.alternatives):
                try:
                    self.check_gold(problem, answer)
                except GoldUnparsable as failure:
                    lines.append(unusable_line(self, problem, answer, str(failure)))
        return lines

    def _golds(self, problem: Problem) -> list[Expected]:
        golds = []
        for answer in (problem.answer, *problem.alternatives):
            try:
                golds.append(self.gold(problem, answer))
            except GoldUnparsable as failure:
                _logger.warning("%s", unusable_line(self, problem, answer, str(failure)))
                return []
        return golds

    def _ruling(self, problem: Problem, golds: Sequence[Expected], text: str) -> Rated:
        if not golds:
            return Rated(self.lowest, Verdict.ERROR, "gold unreadable")
        given: list[Given] = []
        try:
            for slot in slots(text, problem.answer_style or self.answer_style):
                for answer in self.given(problem, slot):
                    given += [] if answer in given else [answer]
        except Unparsable:
            return Rated(self.lowest, Verdict.UNPARSABLE, "answer unreadable")
        if not given:
            return Rated(self.lowest, Verdict.UNPARSABLE, "no answer")
        if len(given) > 1:
            return Rated(self.lowest, Verdict.WRONG, "answers differ")
        rulings = [self.compare(gold, given[0]) for gold in golds]
        return max(rulings, key=lambda each: (each.verdict is Verdict.CORRECT, each.value))


def slots(text: str, style: str) -> list[str]:
    """Return what stands in the answer slots of a completion, each spelling once."""
    if style != "bare":
        return answers(text, style)
    whole = after_thinking(text).strip()
    return [whole] if whole else []


def check_slot_style(style: str, name: str) -> None:
    """Raise ValueError for an unknown style."""
    if style not in SLOT_STYLES:
        raise ValueError(f"{name} must be one of {', '.join(SLOT_STYLES)}, got {style!r}")


def judgement_of(rows: Sequence[Sequence[Rated]]) -> Judgement:
    """Return rulings [P][G] as values and verdicts."""
    values = torch.tensor([[ruling.value for ruling in row] for row in rows], dtype=torch.float64)
    verdicts = [[ruling.verdict for ruling in row] for row in rows]
    return Judgement(values, verdicts, rules=[[ruling.rule for ruling in row] for row in rows])


def unusable_line(term: object, problem: Problem, answer: str, why: str) -> str:
    """Say that a gold cannot be used, and why."""
    name = type(term).__name__
    return f"problem {problem.uid!r}: {name} cannot use its answer {answer!r:.100}: {why}"
