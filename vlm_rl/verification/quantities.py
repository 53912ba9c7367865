"""Matchers of quantities: numbers with and without a unit, percentages, ratios, times."""

import re
from fractions import Fraction

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.exact_numbers import (
    claimed_values,
    close,
    closeness,
    compare_bases,
    names_base,
    plain_number,
    spoken_number,
)
from vlm_rl.verification.gold import Finding, Gold, GoldUnparsable, Unparsable, reading_gold
from vlm_rl.verification.notation import normalise, open_text, plain_text
from vlm_rl.verification.units import canonical_unit, conversion, split_unit

_NOT_A_NUMBER = Finding(False, "not one number")
_UNEQUAL = Finding(False, "another value")
_APPROXIMATELY = re.compile(r"\\(?:approx|simeq|doteq)(?![a-z])|\u2248")


def match_number(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match an equal value within the tolerance; of a chain `x = 2+3 = 5` every claim must hold.

    A unit may be left out or be another one of the same kind. A percent sign divides by 100.
    """
    claims = claimed_values(without_approximations(prediction, algebra))
    if any(map(names_base, (gold.answer, *claims))):
        return _match_in_bases(gold.answer, claims)
    with reading_gold():
        text, gold_unit = split_unit(without_approximations(gold.answer, algebra))
    if gold.unit:
        gold_unit = canonical_unit(gold.unit)
    expected = _gold_value(text, algebra)
    if gold.answer_type == "number" and gold_unit == "%":
        expected, gold_unit = expected / 100, ""
    finding = _NOT_A_NUMBER
    for claim in claims:
        finding = _match_claim(gold, expected, gold_unit, claim, algebra)
        if not finding.right:
            break
    return finding


def match_percent(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match `50\\%`, `50` and `0.5` with a gold of 50 %; a gold of 50 does not accept `0.5`."""
    text, gold_unit = split_unit(gold.answer)
    expected = _gold_value(text, algebra)
    accepted = {expected: "equal"}
    for claim in claimed_values(without_approximations(prediction, algebra)):
        answer, unit = split_unit(claim)
        given = _value_of(answer, algebra)
        if given is None or unit not in ("", "%"):
            return _NOT_A_NUMBER
        if gold_unit == "%" and not unit:
            accepted[expected / 100] = "equal as a fraction"
        if not gold_unit and unit == "%" and abs(expected) <= 1:
            accepted = {expected * 100: "equal as a fraction"}
        rules = [rule for value, rule in accepted.items() if close(value, given, gold.tolerance)]
        if not rules:
            return _UNEQUAL
    return Finding(True, rules[0])


def match_ratio(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match proportional parts: 1:2, 2:4, 50 cm : 1 m.

    Two parts may be the fraction 1/2, but not the decimal, which is a number.
    """
    if re.fullmatch(r"\s*[+-]?\d*\.\d+\s*", prediction):
        return Finding(False, "a decimal")
    with reading_gold():
        expected = _ratio(gold.answer, algebra)
    given = _ratio(prediction, algebra)
    same = len(expected) == len(given) and all(
        close(e, g, ()) for e, g in zip(expected, given, strict=True)
    )
    return Finding(same, "proportional" if same else "not proportional")


def match_time(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match the same time of day or length of time in seconds; words, such as dates, as words.

    `3:05 pm` is 15:05; a half of the day that only one of the two names is not a mistake. `1:30`
    beside a length of time takes its units: hours and minutes for `90 min`.
    """
    if plain_text(gold.answer) == plain_text(prediction):
        return Finding(True, "same words")
    texts = [_without_pm_dots(text) for text in (gold.answer, prediction)]
    lengths = [_duration(text, other) for text, other in zip(texts, texts[::-1], strict=True)]
    if None not in lengths:
        return _compare_times(lengths[0] == lengths[1], "length of time")
    clocks = [_clock(text) for text in texts]
    if clocks[0] is not None and clocks[1] is not None:
        return _compare_times(_same_clock(clocks[0], clocks[1]), "time of day")
    return Finding(False, "other words")


def without_approximations(text: str, algebra: Algebra) -> str:
    """Return `\\sqrt{50}` of `\\sqrt{50} \\approx 7.07`.

    Raises Unparsable if the number behind is not a rounding of it, as in `3 \\approx 4`.
    """
    exact, *rounded = _APPROXIMATELY.split(text)
    if not rounded:
        return text
    claim = claimed_values(exact)[-1]
    if re.fullmatch(r"\s*[A-Za-z]?\s*", claim):
        exact, *rounded = rounded  # `x \approx 7.07`
        claim = exact
    value = _value_of(split_unit(claim)[0], algebra)
    for other in rounded:
        number = plain_number(split_unit(other)[0])
        places = len(normalise(split_unit(other)[0]).partition(".")[2])
        if value is None or number is None or abs(value - number) >= Fraction(1, 10**places):
            raise Unparsable("no approximation of it")
    return exact


def _value_of(text: str, algebra: Algebra) -> Fraction | None:
    """Return None for what can be read but is not one number: a word, a hedge, a date."""
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
        expected = _value_of(text, algebra)
    if expected is None:
        raise GoldUnparsable("not one number")
    return expected


def _match_in_bases(gold: str, claims: list[str]) -> Finding:
    findings = [compare_bases(gold, claim) for claim in claims]
    return next((f for f in findings if f is None or not f.right), findings[0]) or _NOT_A_NUMBER


def _match_claim(
    gold: Gold, expected: Fraction, gold_unit: str, claim: str, algebra: Algebra
) -> Finding:
    text, unit = split_unit(claim)
    given = _value_of(text, algebra)
    if given is None:
        return _NOT_A_NUMBER
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
    """Return the parts as multiples of the last one that is not zero."""
    numbers, first_unit = [], ""
    for part in re.split(r":|\\colon(?![a-z])|\bto\b", normalise(text)):
        value, unit = split_unit(part)
        first_unit = first_unit or unit
        number, factor = _value_of(value, algebra), conversion(first_unit, unit)
        if number is None or factor is None:
            raise Unparsable("not a ratio")
        numbers.append(number * factor)
    if len(numbers) == 1:
        numbers.append(Fraction(1))
    last = next((number for number in reversed(numbers) if number), None)
    if last is None:
        raise Unparsable("not a ratio")
    return [number / last for number in numbers]


_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([ap])?", re.I)
_HOUR = re.compile(r"(\d{1,2})\s*(?:([ap])|o'clock)", re.I)
_DURATION_PART = re.compile(
    r"(\d+(?:\.\d+)?|\d+/\d+)\s*([A-Za-z]+|[\u4e00-\u9fff]+)[\s,]*(?:and\s+)?"
)
_HALF_DAY_S = 12 * 3600
_UNIT_S = {"week": 7 * 86400, "day": 86400, "h": 3600, "min": 60, "s": 1}


def _compare_times(same: bool, kind: str) -> Finding:
    return Finding(same, f"same {kind}" if same else f"another {kind}")


def _without_pm_dots(text: str) -> str:
    """Return `3:05 p` for `3:05 p.m.`: dots and the m are written in many ways."""
    text = open_text(text)
    return re.sub(r"(?<=[\d\s])([ap])\.?\s?m\.?$", r"\1", text, flags=re.I)


def _clock(text: str) -> tuple[int, str] | None:
    """Return the seconds on the dial and the half of the day: `a`, `p` or an empty text."""
    if time := _CLOCK.fullmatch(text):
        hours, minutes, seconds, half = time.groups()
    elif time := _HOUR.fullmatch(text):
        hours, minutes, seconds, half = time[1], "0", "0", time[2]
    else:
        return None
    if int(minutes) > 59 or int(seconds or 0) > 59:
        return None
    if half and not 1 <= int(hours) <= 12:
        return None
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds or 0), (half or "").lower()


def _same_clock(gold: tuple[int, str], prediction: tuple[int, str]) -> bool:
    if gold[0] == prediction[0] and "" in (gold[1], prediction[1]):
        return True
    return _second_of_day(*gold) == _second_of_day(*prediction)


def _second_of_day(seconds: int, half: str) -> int:
    if not half:
        return seconds
    return seconds % _HALF_DAY_S + (_HALF_DAY_S if half == "p" else 0)


def _duration(text: str, other: str) -> Fraction | None:
    """Return seconds; a text with colons or without a unit takes its units from the other."""
    parts = _duration_parts(text)
    if parts:
        return sum((number * _UNIT_S[unit] for number, unit in parts), Fraction(0))
    units = [unit for _, unit in _duration_parts(other)]
    if not units:
        return None
    if len(units) == 1 and re.fullmatch(r"\d+(?:\.\d+)?", text):
        return Fraction(text) * _UNIT_S[units[0]]
    if not re.fullmatch(r"\d+(?::\d{2}){1,2}", text):
        return None
    fields = [int(field) for field in text.split(":")]
    last = 1 if units[-1] == "s" or len(fields) == 3 else 60
    return Fraction(sum(f * last * 60**power for power, f in enumerate(fields[::-1])))


def _duration_parts(text: str) -> list[tuple[Fraction, str]]:
    """Return `1 h 30 min` as (number, unit) pairs, largest unit first; empty for other text."""
    matches = list(_DURATION_PART.finditer(text))
    if not matches or "".join(part[0] for part in matches) != text:
        return []
    parts = [(Fraction(part[1]), canonical_unit(part[2])) for part in matches]
    sizes = [_UNIT_S.get(unit, 0) for _, unit in parts]
    falling = all(a > b for a, b in zip(sizes, [*sizes[1:], 0], strict=True))
    return parts if falling else []
