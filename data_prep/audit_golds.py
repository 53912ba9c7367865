"""Does each gold verify against itself, as it stands and in the forms that a model would use?

A gold that fails as it stands can never be answered right, or only by luck, and is checked in no
other form. One that fails in another form punishes the models that write so.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

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


def check_golds(problems: Sequence[Problem], accuracy: Accuracy) -> dict[str, dict[str, Any]]:
    """Check the gold of each problem in every form that it can take, `AS_IT_STANDS` first.

    Returns for each form how many golds were `asked` in it, how many are `right`, and the
    `failures`, where `written` is what the verifier was given.
    """
    golds = [gold_of(problem) for problem in problems]
    stand = _checked([(gold, gold.answer) for gold in golds], accuracy, "golds as they stand")
    plain = [(p, g, g.answer, check) for p, g, check in zip(problems, golds, stand, strict=True)]
    sound = [(p, g) for p, g, _, check in plain if check.verdict is Verdict.CORRECT]
    written = {
        name: [(p, g, text) for p, g in sound if (text := write(g))]
        for name, write in FORMS.items()
    }
    questions = [(gold, text) for rows in written.values() for _, gold, text in rows]
    checks = iter(_checked(questions, accuracy, "other forms"))
    rows = {AS_IT_STANDS: plain, IN_ITS_SLOT: _in_slots(sound, accuracy)}
    rows |= {name: [(*row, next(checks)) for row in asked] for name, asked in written.items()}
    return {name: _counted(asked) for name, asked in rows.items()}


def letter_of(gold: Gold) -> str | None:
    """Return the letter of a choice that is given by one letter or by the text of an option."""
    if gold.answer_type != "choice":
        return None
    if letter := re.fullmatch(r"\(?([A-Z])\)?", open_text(gold.answer)):
        return letter[1]
    options = [plain_text(choice) for choice in gold.choices]
    answer = plain_text(gold.answer)
    return chr(ord("A") + options.index(answer)) if answer in options else None


def _in_dollars(gold: Gold) -> str | None:
    return None if gold.answer_type == "text" or "$" in gold.answer else f"${gold.answer}$"


def _words_in_text(gold: Gold) -> str | None:
    text = gold.answer if gold.answer_type == "text" else letter_of(gold)
    return None if text is None or re.search(r"[\\{}$]", text) else rf"\text{{{text}}}"


def _without_unit(gold: Gold) -> str | None:
    number = _quantity(gold, _WITH_UNITS)
    # a plain number of 50 % is 0.5, not 50
    if number is None or not number.unit or (gold.answer_type, number.unit) == ("number", "%"):
        return None
    return number.text


def _with_unit(gold: Gold) -> str | None:
    """Write the unit that the problem names apart; one in the answer is written the other way."""
    number = _quantity(gold, _WITH_UNITS)
    if number is None:
        return None
    if not number.unit:
        return f"{gold.answer} {gold.unit}" if gold.unit else None
    if number.unit == "%":
        return f"{number.text}%" if "\\" in gold.answer else rf"{number.text}\%"
    if number.unit == "°":
        return f"{number.text}°" if "\\" in gold.answer else rf"{number.text}^{{\circ}}"
    unit = open_text(number.suffix)
    if "\\" in number.suffix or re.search(r"[\d^]", unit):
        return f"{number.text} {unit}"
    return rf"{number.text} \text{{ {unit}}}"


def _as_decimal(gold: Gold) -> str | None:
    number = _quantity(gold, _WITH_NUMBERS)
    if number is None or number.value.denominator == 1 or "." in number.text:
        return None
    decimal = Decimal(number.value.numerator) / Decimal(number.value.denominator)
    return f"{decimal:f}{number.suffix}" if Fraction(decimal) == number.value else None


def _as_fraction(gold: Gold) -> str | None:
    number = _quantity(gold, _WITH_NUMBERS)
    if number is None or number.value.denominator == 1 or r"\frac" in number.text:
        return None
    sign, (top, bottom) = "-" * (number.value < 0), abs(number.value).as_integer_ratio()
    return rf"{sign}\frac{{{top}}}{{{bottom}}}{number.suffix}"


def _by_value(gold: Gold) -> str | None:
    letter = letter_of(gold)
    return gold.choices[ord(letter) - ord("A")] if letter and gold.choices else None


FORMS: Mapping[str, Callable[[Gold], str | None]] = {
    "in $...$": _in_dollars,
    r"words in \text{}": _words_in_text,
    "without its unit": _without_unit,
    "with its unit": _with_unit,
    "as a decimal": _as_decimal,
    "as a fraction": _as_fraction,
    "by letter": letter_of,
    "by letter, (B)": lambda gold: (letter := letter_of(gold)) and f"({letter})",
    "by value": _by_value,
    "by both, B. value": lambda gold: (value := _by_value(gold)) and f"{letter_of(gold)}. {value}",
}
"""Each form writes a gold, or gives None for one that cannot be written so."""


class _Quantity(NamedTuple):
    """`text` with its exact `value`, and the `suffix` that holds the canonical `unit`."""

    text: str
    value: Fraction
    suffix: str
    unit: str


def _quantity(gold: Gold, types: Sequence[str]) -> _Quantity | None:
    text, unit = split_unit(gold.answer)
    value = plain_number(text) if gold.answer_type in types else None
    if value is None:
        return None
    return _Quantity(text.strip(), value, normalise(gold.answer)[len(text) :], unit)


_Row = tuple[Problem, Gold, str, Check]


def _counted(rows: Sequence[_Row]) -> dict[str, Any]:
    failures = [
        {
            "uid": problem.uid,
            "gold": gold.answer,
            "answer_type": gold.answer_type,
            "written": text,
            "verdict": check.verdict,
            "rule": check.rule,
        }
        for problem, gold, text, check in rows
        if check.verdict is not Verdict.CORRECT
    ]
    return {
        "asked": len(rows),
        "right": len(rows) - len(failures),
        "right_frac": 1 - len(failures) / len(rows) if rows else None,
        "failures": failures,
    }


def _in_slots(sound: Sequence[tuple[Problem, Gold]], accuracy: Accuracy) -> list[_Row]:
    rows: list[_Row] = []
    for chunk in _chunks(sound, "golds in answer slots"):
        problems = [problem for problem, _ in chunk]
        texts = [_SLOTS[p.answer_style or accuracy.answer_style] % p.answer for p in problems]
        readings = accuracy.read(problems, [[text] for text in texts])
        rows += [
            (*pair, text, Check(reading.verdict, reading.rule))
            for pair, text, (reading,) in zip(chunk, texts, readings, strict=True)
        ]
    return rows


def _checked(questions: Sequence[Question], accuracy: Accuracy, label: str) -> list[Check]:
    """Return one check per question; equal ones, of which data sets are full, are checked once."""
    known: dict[Question, Check] = {}
    for chunk in _chunks(list(dict.fromkeys(questions)), label):
        known.update(zip(chunk, accuracy.pool.check(chunk), strict=True))
    return [known[question] for question in questions]


def _chunks(rows: Sequence[_T], label: str) -> Iterator[Sequence[_T]]:
    for start in track(range(0, len(rows), _CHUNK), label, transient=True):
        yield rows[start : start + _CHUNK]
