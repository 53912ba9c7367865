"""Routes an answer to the matcher of its gold's type: the table at the end of this file.

A matcher is a function (gold, prediction, algebra) -> bool. It raises Unparsable where the
prediction, GoldUnparsable where the gold cannot be read. What needs computer algebra asks
`algebra`, which in the trainer's process defers the whole question to a checking process; the
same matchers run there. A new type is a function and a row of the table.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.choices import match_choice
from vlm_rl.verification.gold import (
    MAX_CHARACTERS,
    Gold,
    GoldUnparsable,
    Unparsable,
    reading_gold,
)
from vlm_rl.verification.notation import normalise, plain_text
from vlm_rl.verification.quantities import check_tolerance, claimed_values, close, plain_number
from vlm_rl.verification.units import canonical_unit, same_unit, split_unit

Outcome = Literal["correct", "wrong", "unparsable", "error"]
Matcher = Callable[[Gold, str, Algebra], bool]


def outcome(gold: Gold, prediction: str, algebra: Algebra) -> Outcome:
    """Check one answer. Raises NeedsAlgebra where `algebra` is absent and cannot be spared."""
    try:
        check_gold(gold)
        if not prediction.strip() or len(prediction) > MAX_CHARACTERS:
            return "unparsable"
        matched = MATCHERS[gold.answer_type](gold, prediction, algebra)
    except Unparsable:
        return "unparsable"
    except GoldUnparsable:
        return "error"
    return "correct" if matched else "wrong"


def check_gold(gold: Gold) -> None:
    """Raise GoldUnparsable for what no matcher could use."""
    if gold.answer_type not in MATCHERS:
        raise GoldUnparsable(f"answer type {gold.answer_type!r} is none of {', '.join(MATCHERS)}")
    longest = max(map(len, (gold.answer, *gold.choices)))
    if not gold.answer.strip() or longest > MAX_CHARACTERS:
        raise GoldUnparsable(f"a gold or choice has 1 to {MAX_CHARACTERS} characters")
    check_tolerance(gold)


def infer_type(answer: str, has_choices: bool) -> str:
    """The type of a gold that names none; words go to text, not to a parser that reads letters
    as variables."""
    if has_choices or re.fullmatch(r"\(?[A-Z]\)?", answer.strip()):
        return "choice"
    if plain_number(answer) is not None:
        return "number"
    value, unit = split_unit(answer)
    if unit and plain_number(value) is not None:
        return "percent" if unit == "%" else "number_unit"
    return "text" if re.fullmatch(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]+)*", answer.strip()) else "latex"


def match_number(gold: Gold, prediction: str, algebra: Algebra) -> bool:
    """Equal value within the tolerance; a unit may be left out but must not differ, and a percent
    sign divides by 100."""
    text, gold_unit = split_unit(gold.answer)
    if gold.unit:
        gold_unit = canonical_unit(gold.unit)
    with reading_gold():
        expected = _value(text, algebra)
    if expected is None:
        raise GoldUnparsable(f"{gold.answer!r} is no number")
    if gold.answer_type == "number" and gold_unit == "%":
        expected, gold_unit = expected / 100, ""
    claims = [split_unit(part) for part in claimed_values(prediction)]
    return all(_claims_value(gold, expected, gold_unit, claim, algebra) for claim in claims)


def match_percent(gold: Gold, prediction: str, algebra: Algebra) -> bool:
    """`50\\%`, `50` and `0.5` are all right for a gold of 50 %; `0.5` for a gold of 50 is not."""
    text, gold_unit = split_unit(gold.answer)
    with reading_gold():
        expected = _value(text, algebra)
    if expected is None:
        raise GoldUnparsable(f"{gold.answer!r} is no number")
    answer, unit = split_unit(prediction)
    given = _value(answer, algebra)
    if given is None or unit not in ("", "%"):
        return False
    accepted = [expected]
    if gold_unit == "%" and not unit:
        accepted.append(expected / 100)
    if not gold_unit and unit == "%" and abs(expected) <= 1:
        accepted = [expected * 100]
    return any(close(value, given, gold.tolerance) for value in accepted)


def match_text(gold: Gold, prediction: str, algebra: Algebra) -> bool:
    """The same words, whatever their case, spacing and full stop."""
    return plain_text(gold.answer) == plain_text(prediction)


def match_ratio(gold: Gold, prediction: str, algebra: Algebra) -> bool:
    """Proportional parts: 1:2, 2:4 and, for two parts, 1/2."""
    with reading_gold():
        expected = _ratio(gold.answer)
    return expected == _ratio(prediction)


def match_sequence(gold: Gold, prediction: str, algebra: Algebra) -> bool:
    """Element by element, in order; brackets may be left out but must not differ."""
    gold_bracket, expected = _elements(gold.answer)
    bracket, given = _elements(prediction)
    if bracket not in ("", gold_bracket) or len(expected) != len(given):
        return False
    return all(_same(g, p, algebra) for g, p in zip(expected, given, strict=True))


def match_set(gold: Gold, prediction: str, algebra: Algebra) -> bool:
    """Equal as sets; a tuple or interval is none."""
    return normalise(prediction)[:1] not in ("(", "[") and algebra.equal(gold.answer, prediction)


def match_latex(gold: Gold, prediction: str, algebra: Algebra) -> bool:
    """The same mathematical object; numbers where the problem gives a tolerance."""
    if gold.tolerance:
        return match_number(gold, prediction, algebra)
    return algebra.equal(gold.answer, prediction)


def _claims_value(
    gold: Gold, expected: Fraction, gold_unit: str, claim: tuple[str, str], algebra: Algebra
) -> bool:
    text, unit = claim
    given = _value(text, algebra)
    if given is not None and gold.answer_type == "number" and unit == "%":
        given, unit = given / 100, ""
    return (
        given is not None and same_unit(gold_unit, unit) and close(expected, given, gold.tolerance)
    )


def _value(text: str, algebra: Algebra) -> Fraction | None:
    """None for what can be read but is not one number: a word, a hedge, a date."""
    number = plain_number(text)
    if number is not None:
        return number
    if re.search(r"\d-\d+-\d|\bor\b|\\circ|\d\s*'", text):
        return None
    return algebra.value(text)


def _ratio(text: str) -> list[Fraction]:
    parts = [plain_number(part) for part in re.split(r":|\bto\b", normalise(text))]
    numbers = [part for part in parts if part is not None]
    if len(numbers) < len(parts) or numbers[-1] == 0:
        raise Unparsable(f"{text!r} is no ratio")
    if len(numbers) == 1:
        numbers.append(Fraction(1))
    return [number / numbers[-1] for number in numbers]


def _elements(text: str) -> tuple[str, list[str]]:
    text = normalise(text)
    bracket = text[:1] if re.fullmatch(r"[(\[].*[)\]]", text, re.DOTALL) else ""
    body = text[1:-1] if bracket else text
    depth, parts = 0, [""]
    for character in body:
        depth += (character in "({[") - (character in ")}]")
        if character in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return bracket, [part.strip() for part in parts]


def _same(gold: str, prediction: str, algebra: Algebra) -> bool:
    numbers = plain_number(gold), plain_number(prediction)
    if numbers[0] is not None and numbers[1] is not None:
        return close(numbers[0], numbers[1], ())
    if plain_text(gold) == plain_text(prediction):
        return True
    return algebra.equal(gold, prediction)


MATCHERS: Mapping[str, Matcher] = {
    "choice": match_choice,
    "number": match_number,
    "number_unit": match_number,
    "percent": match_percent,
    "text": match_text,
    "time": match_text,
    "ratio": match_ratio,
    "list": match_sequence,
    "tuple": match_sequence,
    "set": match_set,
    "interval": match_latex,
    "matrix": match_latex,
    "expression": match_latex,
    "latex": match_latex,
}
