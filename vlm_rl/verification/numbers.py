"""Matchers of single numbers, with and without a unit, of percentages and of ratios."""

import re
from fractions import Fraction

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.bases import compare_bases, names_base
from vlm_rl.verification.gold import Finding, Gold, GoldUnparsable, Unparsable, reading_gold
from vlm_rl.verification.notation import normalise
from vlm_rl.verification.number_words import spoken_number
from vlm_rl.verification.quantities import claimed_values, close, closeness, plain_number
from vlm_rl.verification.units import canonical_unit, conversion, split_unit

_NO_NUMBER = Finding(False, "not one number")
_UNEQUAL = Finding(False, "another value")
_APPROXIMATELY = re.compile(r"\\(?:approx|simeq|doteq)(?![a-z])|\u2248")


def match_number(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Equal value within the tolerance; a unit may be left out or be another one of the same kind,
    and a percent sign divides by 100. Of a chain `x = 2+3 = 5` every claim must hold."""
    claims = claimed_values(without_approximations(prediction, algebra))
    if any(map(names_base, (gold.answer, *claims))):
        return _in_bases(gold.answer, claims)
    with reading_gold():
        text, gold_unit = split_unit(without_approximations(gold.answer, algebra))
    if gold.unit:
        gold_unit = canonical_unit(gold.unit)
    expected = _gold_value(text, algebra)
    if gold.answer_type == "number" and gold_unit == "%":
        expected, gold_unit = expected / 100, ""
    finding = _NO_NUMBER
    for claim in claims:
        finding = _match_claim(gold, expected, gold_unit, claim, algebra)
        if not finding.right:
            break
    return finding


def match_percent(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """`50\\%`, `50` and `0.5` are all right for a gold of 50 %; `0.5` for a gold of 50 is not."""
    text, gold_unit = split_unit(gold.answer)
    expected = _gold_value(text, algebra)
    accepted = {expected: "equal"}
    for claim in claimed_values(without_approximations(prediction, algebra)):
        answer, unit = split_unit(claim)
        given = value_of(answer, algebra)
        if given is None or unit not in ("", "%"):
            return _NO_NUMBER
        if gold_unit == "%" and not unit:
            accepted[expected / 100] = "equal as a fraction"
        if not gold_unit and unit == "%" and abs(expected) <= 1:
            accepted = {expected * 100: "equal as a fraction"}
        rules = [rule for value, rule in accepted.items() if close(value, given, gold.tolerance)]
        if not rules:
            return _UNEQUAL
    return Finding(True, rules[0])


def match_ratio(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Proportional parts: 1:2, 2:4, 50 cm : 1 m and, for two parts, the fraction 1/2, but not the
    decimal, which is a number."""
    if re.fullmatch(r"\s*[+-]?\d*\.\d+\s*", prediction):
        return Finding(False, "a decimal")
    with reading_gold():
        expected = _ratio(gold.answer, algebra)
    given = _ratio(prediction, algebra)
    same = len(expected) == len(given) and all(
        close(e, g, ()) for e, g in zip(expected, given, strict=True)
    )
    return Finding(same, "proportional" if same else "not proportional")


def without_approximations(text: str, algebra: Algebra) -> str:
    """`\\sqrt{50}` of `\\sqrt{50} \\approx 7.07`. Raises Unparsable for what is no rounding of it,
    such as `3 \\approx 4`."""
    exact, *rounded = _APPROXIMATELY.split(text)
    if not rounded:
        return text
    claim = claimed_values(exact)[-1]
    if re.fullmatch(r"\s*[A-Za-z]?\s*", claim):
        exact, *rounded = rounded  # `x \approx 7.07`
        claim = exact
    value = value_of(split_unit(claim)[0], algebra)
    for other in rounded:
        number = plain_number(split_unit(other)[0])
        places = len(normalise(split_unit(other)[0]).partition(".")[2])
        if value is None or number is None or abs(value - number) >= Fraction(1, 10**places):
            raise Unparsable("no approximation of it")
    return exact


def value_of(text: str, algebra: Algebra) -> Fraction | None:
    """None for what can be read but is not one number: a word, a hedge, a date."""
    number = plain_number(text)
    if number is not None:
        return number
    spoken = spoken_number(text)
    if spoken is not None:
        return Fraction(spoken)
    if re.search(r"\d-\d+-\d|\bor\b|\\circ|\d\s*'|:", text):
        return None
    return algebra.value(text)


def _gold_value(text: str, algebra: Algebra) -> Fraction:
    with reading_gold():
        expected = value_of(text, algebra)
    if expected is None:
        raise GoldUnparsable("not one number")
    return expected


def _in_bases(gold: str, claims: list[str]) -> Finding:
    findings = [compare_bases(gold, claim) for claim in claims]
    return next((f for f in findings if f is None or not f.right), findings[0]) or _NO_NUMBER


def _match_claim(
    gold: Gold, expected: Fraction, gold_unit: str, claim: str, algebra: Algebra
) -> Finding:
    text, unit = split_unit(claim)
    given = value_of(text, algebra)
    if given is None:
        return _NO_NUMBER
    if gold.answer_type == "number" and unit == "%":
        given, unit = given / 100, ""
    factor = conversion(gold_unit, unit)
    if factor is None:
        return Finding(False, "another unit")
    if not close(expected, given * factor, gold.tolerance):
        return _UNEQUAL
    equal = "equal" if expected == given * factor else f"equal {closeness(gold.tolerance)}"
    return Finding(True, equal if factor == 1 else f"{equal}, unit converted")


def _ratio(text: str, algebra: Algebra) -> list[Fraction]:
    """The parts as multiples of the last one that is not zero."""
    numbers, first_unit = [], ""
    for part in re.split(r":|\\colon(?![a-z])|\bto\b", normalise(text)):
        value, unit = split_unit(part)
        first_unit = first_unit or unit
        number, factor = value_of(value, algebra), conversion(first_unit, unit)
        if number is None or factor is None:
            raise Unparsable("not a ratio")
        numbers.append(number * factor)
    if len(numbers) == 1:
        numbers.append(Fraction(1))
    last = next((number for number in reversed(numbers) if number), None)
    if last is None:
        raise Unparsable("not a ratio")
    return [number / last for number in numbers]
