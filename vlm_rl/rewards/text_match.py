"""Terms that compare short texts: exactly, by edit distance, or as the numbers of charts."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from vlm_rl.records import Problem, Verdict
from vlm_rl.rewards.answer_term import AnswerTerm, Rated, SlotStyle
from vlm_rl.verification.gold import MAX_CHARACTERS, GoldUnparsable, Unparsable

_IN_LATEX = re.compile(r"\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}")


class TextTerm(AnswerTerm[str, str]):
    """A term that compares texts of at most 1000 characters, in Unicode's composed form.

    White space around them and runs of it do not count, nor does `\\text{}` around the whole.
    """

    def __init__(self, answer_style: SlotStyle = "box", weight: float = 1.0) -> None:
        super().__init__(weight, answer_style)

    def gold(self, problem: Problem, answer: str) -> str:
        if len(answer) > MAX_CHARACTERS:
            raise GoldUnparsable(f"a gold has at most {MAX_CHARACTERS} characters")
        return self.spelled(answer)

    def given(self, problem: Problem, text: str) -> Sequence[str]:
        if len(text) > MAX_CHARACTERS:
            raise Unparsable("refused: long")
        return [self.spelled(text)]

    def spelled(self, text: str) -> str:
        """Return a text as this term compares it."""
        wrapped = _IN_LATEX.fullmatch(text.strip())
        whole = wrapped[1] if wrapped else text
        return " ".join(unicodedata.normalize("NFC", whole).split())


class ExactMatch(TextTerm):
    """1 for the text of the gold, character by character, else 0."""

    def compare(self, gold: str, given: str) -> Rated:
        return right_or_wrong(gold == given)


class ANLS(TextTerm):
    """1 - d / length of the longer text, d the edit distance; 0 from d / length of `threshold` on.

    Average normalised Levenshtein similarity, https://arxiv.org/abs/1907.00490, section 4: upper
    and lower case are one, white space counts, threshold 0.5, the best of several golds. What is
    under the threshold has chosen the right text, perhaps misspelt it, and is correct.
    """

    def __init__(
        self, threshold: float = 0.5, answer_style: SlotStyle = "box", weight: float = 1.0
    ) -> None:
        super().__init__(answer_style, weight)
        if not 0 < threshold <= 1:
            raise ValueError(f"ANLS.threshold must be in (0, 1], got {threshold}; published: 0.5")
        self.threshold = threshold

    def spelled(self, text: str) -> str:
        return super().spelled(text).lower()

    def compare(self, gold: str, given: str) -> Rated:
        longer = max(len(gold), len(given), 1)
        distance = edit_distance(gold, given) / longer
        right = distance < self.threshold
        return Rated(1 - distance if right else 0.0, Verdict.CORRECT if right else Verdict.WRONG)


class RelaxedNumber(TextTerm):
    """1 for a number within `tolerance` of the gold, relative to it; other texts must be equal.

    Relaxed accuracy of ChartQA, https://arxiv.org/abs/2203.10244, section 5.1, with its 5 %, by the
    rule of https://arxiv.org/abs/1909.00997. As `relaxed_correctness` of google-research/pix2struct
    scores it, `5%` is 0.05, a gold of 0 must be met by its text, texts are compared without regard
    to case, and `1,000` is a text.
    """

    def __init__(
        self, tolerance: float = 0.05, answer_style: SlotStyle = "box", weight: float = 1.0
    ) -> None:
        super().__init__(answer_style, weight)
        if not 0 <= tolerance < 1:
            raise ValueError(
                f"RelaxedNumber.tolerance must be in [0, 1), got {tolerance}; published: 0.05"
            )
        self.tolerance = tolerance

    def compare(self, gold: str, given: str) -> Rated:
        expected, offered = _number(gold), _number(given)
        if not expected or offered is None:
            return right_or_wrong(gold.lower() == given.lower())
        return right_or_wrong(abs(offered - expected) / abs(expected) <= self.tolerance)


def right_or_wrong(right: bool) -> Rated:
    """Return 1 and correct, or 0 and wrong."""
    return Rated(1.0, Verdict.CORRECT) if right else Rated(0.0, Verdict.WRONG)


def edit_distance(text: str, other: str) -> int:
    """Return the fewest insertions, deletions and replacements of a character between two texts."""
    a, b = (np.array([ord(c) for c in one], dtype=np.int64) for one in (text, other))
    columns = np.arange(len(b) + 1)
    row = columns.copy()
    for number, character in enumerate(a, 1):
        replaced = row[:-1] + (b != character)
        candidate = np.concatenate([[number], np.minimum(replaced, row[1:] + 1)])
        # insertions: the least of each earlier column, plus the columns between
        row = np.minimum.accumulate(candidate - columns) + columns
    return int(row[-1])


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
