"""Does each gold verify against itself, as it stands and in the forms that a model would use?

A gold that fails as it stands can never be answered right, or only by luck; it is asked for in no
other form. One that fails in another form punishes the models that write so.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

from rich.progress import track

from vlm_rl.records import Problem, Verdict
from vlm_rl.rewards.accuracy import Accuracy, gold_of
from vlm_rl.verification.exact_numbers import plain_number
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.notation import normalise, open_text, plain_text
from vlm_rl.verification.pool import Check, Question
from vlm_rl.verification.units import split_unit

AS_IT_STANDS = "as it stands"
IN_ITS_SLOT = "in its answer slot"

_T = TypeVar("_T")
_CHUNK = 64
_SLOTS = {
    "box": "Adding both parts shows that the answer is $\\boxed{%s}$.",
    "tag": "Adding both parts gives <answer>%s</answer>",
    "answer_line": "Adding both parts gives it.\nAnswer: %s",
}
_WITH_UNITS = ("number", "number_unit", "percent")
_WITH_NUMBERS = (*_WITH_UNITS, "latex", "expression")


@dataclass(frozen=True)
class Failure:
    """A gold that is not right in a form; `written` is what the verifier was given."""

    uid: str
    gold: str
    answer_type: str
    written: str
    verdict: Verdict
    rule: str


@dataclass(frozen=True)
class Form:
    """One way to write golds: how many can be written so, and those that are then not right."""

    name: str
    asked: int
    failures: Sequence[Failure]

    @property
    def right_frac(self) -> float | None:
        return 1 - len(self.failures) / self.asked if self.asked else None


def check_golds(problems: Sequence[Problem], accuracy: Accuracy) -> list[Form]:
    """Check the gold of each problem in every form that it can take, `AS_IT_STANDS` first."""
    golds = [gold_of(problem) for problem in problems]
    stands = _checked([(gold, gold.answer) for gold in golds], accuracy, "golds as they stand")
    plain = [
        (*pair, pair[1].answer, check)
        for pair, check in zip(zip(problems, golds, strict=True), stands, strict=True)
    ]
    sound = [(problem, gold) for problem, gold, _, check in plain if _right(check)]
    forms = [_form(AS_IT_STANDS, plain), _slot_form(sound, accuracy)]
    asked = {
        name: [(problem, gold, text) for problem, gold in sound if (text := write(gold))]
        for name, write in FORMS.items()
    }
    questions = [(gold, text) for rows in asked.values() for _, gold, text in rows]
    checks = iter(_checked(questions, accuracy, "other forms"))
    forms += [_form(name, [(*row, next(checks)) for row in rows]) for name, rows in asked.items()]
    return forms


def letter_of(gold: Gold) -> str | None:
    """The letter of a choice that is given by one letter or by the text of an option."""
    if gold.answer_type != "choice":
        return None
    if found := re.fullmatch(r"\(?([A-Z])\)?", open_text(gold.answer)):
        return found[1]
    options = [plain_text(choice) for choice in gold.choices]
    answer = plain_text(gold.answer)
    return chr(ord("A") + options.index(answer)) if answer in options else None


def _in_dollars(gold: Gold) -> str | None:
    return None if gold.answer_type == "text" or "$" in gold.answer else f"${gold.answer}$"


def _words_in_text(gold: Gold) -> str | None:
    words = gold.answer if gold.answer_type == "text" else letter_of(gold)
    return None if words is None or re.search(r"[\\{}$]", words) else rf"\text{{{words}}}"


def _without_unit(gold: Gold) -> str | None:
    number = _quantity(gold)
    # a plain number of 50 % is 0.5, not 50
    if number is None or not number.unit or (gold.answer_type, number.unit) == ("number", "%"):
        return None
    return number.text


def _with_unit(gold: Gold) -> str | None:
    """The unit that the problem names apart; one in the answer is written the other way."""
    number = _quantity(gold)
    if number is None:
        return None
    if not number.unit:
        return f"{gold.answer} {gold.unit}" if gold.unit else None
    if number.unit == "%":
        return f"{number.text}%" if "\\" in gold.answer else rf"{number.text}\%"
    if number.unit == "°":
        return f"{number.text}°" if "\\" in gold.answer else rf"{number.text}^{{\circ}}"
    words = open_text(number.suffix)
    if "\\" in number.suffix or re.search(r"[\d^]", words):
        return f"{number.text} {words}"
    return rf"{number.text} \text{{ {words}}}"


def _as_decimal(gold: Gold) -> str | None:
    number = _quantity(gold, _WITH_NUMBERS)
    if number is None or number.value.denominator == 1 or "." in number.text:
        return None
    decimal = Decimal(number.value.numerator) / Decimal(number.value.denominator)
    exact = Fraction(decimal) == number.value
    return f"{decimal:f}{number.suffix}" if exact else None


def _as_fraction(gold: Gold) -> str | None:
    number = _quantity(gold, _WITH_NUMBERS)
    if number is None or number.value.denominator == 1 or r"\frac" in number.text:
        return None
    sign = "-" if number.value < 0 else ""
    top, bottom = abs(number.value.numerator), number.value.denominator
    return rf"{sign}\frac{{{top}}}{{{bottom}}}{number.suffix}"


def _in_parentheses(gold: Gold) -> str | None:
    letter = letter_of(gold)
    return letter and f"({letter})"


def _by_value(gold: Gold) -> str | None:
    letter = letter_of(gold)
    return gold.choices[ord(letter) - ord("A")] if letter and gold.choices else None


def _letter_and_value(gold: Gold) -> str | None:
    value = _by_value(gold)
    return value and f"{letter_of(gold)}. {value}"


FORMS: Mapping[str, Callable[[Gold], str | None]] = {
    "in $...$": _in_dollars,
    r"words in \text{}": _words_in_text,
    "without its unit": _without_unit,
    "with its unit": _with_unit,
    "as a decimal": _as_decimal,
    "as a fraction": _as_fraction,
    "by letter": letter_of,
    "by letter, (B)": _in_parentheses,
    "by value": _by_value,
    "by both, B. value": _letter_and_value,
}
"""Each form writes a gold, or gives None for one that can not be written so."""


@dataclass(frozen=True)
class _Quantity:
    """`text` with its exact `value`, and the `suffix` that holds the canonical `unit`."""

    text: str
    value: Fraction
    suffix: str
    unit: str


def _quantity(gold: Gold, types: Sequence[str] = _WITH_UNITS) -> _Quantity | None:
    if gold.answer_type not in types:
        return None
    text, unit = split_unit(gold.answer)
    value = plain_number(text)
    if value is None:
        return None
    return _Quantity(text.strip(), value, normalise(gold.answer)[len(text) :], unit)


_Row = tuple[Problem, Gold, str, Check]


def _form(name: str, rows: Sequence[_Row]) -> Form:
    failures = [
        Failure(problem.uid, gold.answer, gold.answer_type, text, *check)
        for problem, gold, text, check in rows
        if not _right(check)
    ]
    return Form(name, len(rows), failures)


def _slot_form(sound: Sequence[tuple[Problem, Gold]], accuracy: Accuracy) -> Form:
    rows: list[_Row] = []
    for chunk in _chunks(sound, "golds in answer slots"):
        problems = [problem for problem, _ in chunk]
        texts = [_SLOTS[p.answer_style or accuracy.answer_style] % p.answer for p in problems]
        readings = accuracy.read(problems, [[text] for text in texts])
        rows += [
            (*pair, text, Check(reading.verdict, reading.rule))
            for pair, text, (reading,) in zip(chunk, texts, readings, strict=True)
        ]
    return _form(IN_ITS_SLOT, rows)


def _checked(questions: Sequence[Question], accuracy: Accuracy, label: str) -> list[Check]:
    """One check per question; equal ones, of which data sets are full, are checked once."""
    known: dict[Question, Check] = {}
    for chunk in _chunks(list(dict.fromkeys(questions)), label):
        known.update(zip(chunk, accuracy.pool.check(chunk), strict=True))
    return [known[question] for question in questions]


def _chunks(rows: Sequence[_T], label: str) -> Iterator[Sequence[_T]]:
    for start in track(range(0, len(rows), _CHUNK), label, transient=True):
        yield rows[start : start + _CHUNK]


def _right(check: Check) -> bool:
    return check.verdict is Verdict.CORRECT
