"""Does each gold verify against itself, as it stands and in the forms that a model would use?

A gold that fails as it stands can never be answered right, or only by luck, and is checked in no
other form. One that fails in another form punishes the models that write so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from vlm_rl.records import Problem, Verdict
from vlm_rl.rewards.accuracy import NO_ANSWER, Accuracy, gold_of
from vlm_rl.show.screen import track
from vlm_rl.verification.extraction import answers
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.notation import open_text, plain_text
from vlm_rl.verification.pool import CheckerPool, Reading, read_answers
from vlm_rl.verification.reading import cut_unit, plain_number

AS_IT_STANDS = "as it stands"
IN_ITS_SLOT = "in its answer slot"

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
    `failures`, where `written` is what the verifier was given. Equal golds, of which data sets are
    full, are checked once.
    """
    golds = [(gold_of(p), p.answer_style or accuracy.answer_style) for p in problems]
    different = track(set(golds), "golds", transient=True)
    readings = {gold: _read_forms(*gold, accuracy.pool) for gold in different}
    rows = list(zip(problems, map(readings.__getitem__, golds), strict=True))
    return {
        form: _counted([(problem, *read[form]) for problem, read in rows if form in read])
        for form in (AS_IT_STANDS, IN_ITS_SLOT, *FORMS)
    }


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
    text, value, _, unit = _quantity(gold, _WITH_UNITS)
    # a plain number of 50 % is 0.5, not 50
    if value is None or not unit or (gold.answer_type, unit) == ("number", "%"):
        return None
    return text


def _with_unit(gold: Gold) -> str | None:
    """Write the unit that the problem names apart; one in the answer is written the other way."""
    text, value, suffix, unit = _quantity(gold, _WITH_UNITS)
    if value is None:
        return None
    if not unit:
        return f"{gold.answer} {gold.unit}" if gold.unit else None
    if unit == "%":
        return f"{text}%" if "\\" in gold.answer else rf"{text}\%"
    if unit == "°":
        return f"{text}°" if "\\" in gold.answer else rf"{text}^{{\circ}}"
    opened = open_text(suffix)
    if "\\" in suffix or re.search(r"[\d^]", opened):
        return f"{text} {opened}"
    return rf"{text} \text{{ {opened}}}"


def _as_decimal(gold: Gold) -> str | None:
    text, value, suffix, _ = _quantity(gold, _WITH_NUMBERS)
    if value is None or value.denominator == 1 or "." in text:
        return None
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return f"{decimal:f}{suffix}" if Fraction(decimal) == value else None


def _as_fraction(gold: Gold) -> str | None:
    text, value, suffix, _ = _quantity(gold, _WITH_NUMBERS)
    if value is None or value.denominator == 1 or r"\frac" in text:
        return None
    sign, (top, bottom) = "-" * (value < 0), abs(value).as_integer_ratio()
    return rf"{sign}\frac{{{top}}}{{{bottom}}}{suffix}"


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


def _quantity(gold: Gold, types: Sequence[str]) -> tuple[str, Fraction | None, str, str]:
    """Return a number's text and its exact value, the suffix that holds its unit, and that unit in
    canonical form. The value is None for golds of other types and for what is not a number."""
    text, suffix = cut_unit(gold.answer)
    value = plain_number(text) if gold.answer_type in types else None
    unit = open_text(suffix)
    return text, value, suffix, "°" if unit == r"^\circ" else unit


def _read_forms(gold: Gold, style: str, pool: CheckerPool) -> dict[str, tuple[str, Reading]]:
    """Write and read a gold as it stands and, if that is right, in each other form it can take."""
    readable, stand = read_answers([(gold, [NO_ANSWER]), (gold, [gold.answer])], pool)
    if readable.verdict is Verdict.ERROR:
        stand = readable  # only the same text could be right
    forms = {AS_IT_STANDS: (gold.answer, stand)}
    if stand.verdict is Verdict.CORRECT:
        slot = _SLOTS[style] % gold.answer
        texts = {form: text for form, write in FORMS.items() if (text := write(gold))}
        in_slot, *others = read_answers(
            [(gold, answers(slot, style)), *((gold, [text]) for text in texts.values())], pool
        )
        forms[IN_ITS_SLOT] = slot, in_slot
        forms |= {form: (texts[form], one) for form, one in zip(texts, others, strict=True)}
    return forms


def _counted(rows: Sequence[tuple[Problem, str, Reading]]) -> dict[str, Any]:
    failures = [
        {
            "uid": problem.uid,
            "gold": problem.answer,
            "answer_type": gold_of(problem).answer_type,
            "written": text,
            "verdict": reading.verdict,
            "rule": reading.rule,
        }
        for problem, text, reading in rows
        if reading.verdict is not Verdict.CORRECT
    ]
    return {
        "asked": len(rows),
        "right": len(rows) - len(failures),
        "right_frac": 1 - len(failures) / len(rows) if rows else None,
        "failures": failures,
    }
