"""Numbers read and compared exactly, which decides most golds without computer algebra.

Decimals, fractions and their like give a Fraction, English number words an integer. A number in a
named base (`52_8`, `2A_{16}`, `101_{\\text{two}}`) is compared by its digits.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from vlm_rl.verification.gold import Finding, Gold, GoldUnparsable
from vlm_rl.verification.notation import normalise, open_text, plain_text

_RELATIVE = Fraction(1, 10**6)
"""Two non-integers this close are the same number, if the problem names no tolerance."""
_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_SIGN = r"([+-]?)\s*"
_EXPONENT = r"([+-]?\d{1,3})"


def plain_number(text: str) -> Fraction | None:
    """Return the exact value of a number, None for any other text.

    Reads integers, decimals, fractions, mixed, ordinal and repeating numbers, powers of ten, and
    degrees with minutes.
    """
    text = normalise(text)
    for pattern, value_of in _NOTATIONS:
        if number := pattern.fullmatch(text):
            sign, *parts = number.groups()
            value = value_of(*parts)
            return -value if sign == "-" and value is not None else value
    return None


def close(gold: Fraction, prediction: Fraction, tolerance: tuple[tuple[str, float], ...]) -> bool:
    """Return whether two numbers count as the same.

    Without a tolerance they must be equal if one is an integer, else agree to 1e-6 of the larger.
    A tolerance is `decimals` to round both to, or the largest `abs` or `rel` difference.
    """
    if not tolerance:
        exact = 1 in (gold.denominator, prediction.denominator)
        allowed = 0 if exact else _RELATIVE * max(abs(gold), abs(prediction))
        return abs(gold - prediction) <= allowed
    return all(_within(gold, prediction, rule, size) for rule, size in tolerance)


def closeness(tolerance: tuple[tuple[str, float], ...]) -> str:
    """Return how near `close` wants numbers to be, as the end of a rule."""
    return "within the tolerance" if tolerance else "within 1e-6"


def check_tolerance(gold: Gold) -> None:
    """Raise GoldUnparsable for a rule that is unknown or a size that is negative."""
    for rule, size in gold.tolerance:
        if rule not in ("decimals", "abs", "rel") or not size >= 0:
            raise GoldUnparsable("a tolerance is not decimals, abs or rel and >= 0")


def claimed_values(text: str) -> list[str]:
    """Return what a chain claims: 2+3 and 5 for `x = 2+3 = 5`.

    The caller requires all of them to be right, so that `3=5` does not pass for 5.
    """
    first, *rest = normalise(text).split("=")
    names_the_value = re.fullmatch(
        r"\D*|[A-Za-z]+(_\{\w+\})?\s*(\(\w+\))?|\\angle\s*\w+", first.strip()
    )
    return rest if rest and names_the_value else [first, *rest]


def _within(gold: Fraction, prediction: Fraction, rule: str, size: float) -> bool:
    if rule == "decimals":
        return round(gold, int(size)) == round(prediction, int(size))
    allowed = Fraction(str(size)) * (abs(gold) if rule == "rel" else 1)
    return abs(gold - prediction) <= allowed


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _scientific(digits: str, exponent: str | None, power: str | None) -> Fraction:
    return _decimal(digits) * Fraction(10) ** int(exponent or power or 0)


def _repeating(whole: str, once: str, again: str) -> Fraction:
    part = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
    return _decimal(f"{whole or 0}.{once}") + part


def _divide(top: str, bottom: str) -> Fraction | None:
    return _decimal(top) / _decimal(bottom) if _decimal(bottom) else None


def _mixed(whole: str, top: str, bottom: str) -> Fraction | None:
    part = _divide(top, bottom)
    return None if part is None else int(whole or 0) + part


def _degrees(*parts: str | None) -> Fraction:
    degrees, minutes, seconds = (int(part or 0) for part in parts)
    return Fraction(3600 * degrees + 60 * minutes + seconds, 3600)


def _latex_fraction(whole: str, sign: str, top: str, bottom: str) -> Fraction | None:
    if whole and sign:
        return None
    return _mixed(whole, sign.removeprefix("+") + top, bottom)


_NOTATIONS: tuple[tuple[re.Pattern[str], Callable[..., Fraction | None]], ...] = tuple(
    (re.compile(pattern), value_of)
    for pattern, value_of in (
        # the first group is the sign; the others go to the function
        (
            rf"{_SIGN}({_DECIMAL})"
            rf"(?:[eE]{_EXPONENT}|\s*\\(?:times|cdot)\s*10\s*\^\s*\{{?{_EXPONENT}\}}?)?",
            _scientific,
        ),
        (rf"{_SIGN}(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*\{{?\s*(\d+)\s*\}}?", _repeating),
        (rf"{_SIGN}({_DECIMAL})\s*/\s*({_DECIMAL})", _divide),
        (rf"{_SIGN}(\d+)\s+(\d+)\s*/\s*(\d+)", _mixed),
        (
            r"()(\d+)\s*\^?\s*\{?\s*(?:\\(?:text|mathrm|rm)\s*\{)?\s*(?:st|nd|rd|th)\s*\}*",
            Fraction,
        ),
        (r"()(\d+)\s*\^\s*\\circ\s*(\d+)\s*'(?:\s*(\d+)\s*'')?", _degrees),
        (
            rf"{_SIGN}(\d*)\s*\\frac\s*\{{\s*([+-]?)({_DECIMAL})\s*\}}\s*\{{\s*({_DECIMAL})\s*\}}",
            _latex_fraction,
        ),
    )
)

_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ONES = "|".join(_SMALL[1:10])
_SPOKEN_VALUES = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
    **{"a": 1, "an": 1},
}
NUMBER_WORDS = frozenset((*_SMALL, *_TENS, "hundred", "thousand", "million"))
_SPOKEN = re.compile(
    r"(?P<sign>minus |negative )?"
    rf"(?:(?P<hundreds>an?|{_ONES}) hundred(?: and)?\b ?)?"
    rf"(?:(?P<tens>{'|'.join(_TENS)})(?: (?P<ones>{_ONES}))?|(?P<small>{'|'.join(_SMALL)}))?"
)


def spoken_number(text: str) -> int | None:
    """Return the integer up to 999 that English words name, None for any other text.

    Reads `five`, `twenty-one`, `one hundred and five`.
    """
    spoken = _SPOKEN.fullmatch(plain_text(text).replace("-", " "))
    if not spoken or not any(spoken.group("hundreds", "tens", "small")):
        return None
    parts = spoken.group("hundreds", "tens", "ones", "small")
    hundreds, *others = (_SPOKEN_VALUES[part] if part else 0 for part in parts)
    value = 100 * hundreds + sum(others)
    return -value if spoken["sign"] else value


_IN_BASE = re.compile(
    r"([+-]?)[({]*(\d{1,3}(?:,\d{3})+|(?=[A-Z]*\d)[\dA-Z]+)[)}]*_\{?\(?(\w+)\)?\}?"
)
_WITHOUT_BASE = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|[\dA-Z]+)")


class _NumberInBase(NamedTuple):
    sign: str
    digits: str
    base: int


def compare_bases(gold: str, prediction: str) -> Finding | None:
    """Return whether both are the same digits in the same base, None if neither names a base.

    A problem that asks for a number in some base asks for its digits, so values are not compared:
    42 does not answer `52_8`. Bare digits are right for a gold with a base, which the problem has
    then named. An answer with a base is right for a gold without only if the base is ten.
    """
    expected, given = _in_base(gold), _in_base(prediction)
    if expected is None and given is None:
        return None
    if expected is None:
        same = given is not None and given.base == 10 and _without_base(gold) == given[:2]
    elif given is None:
        same = _without_base(prediction) == expected[:2]
    else:
        same = expected == given
    return Finding(same, "same digits and base" if same else "other digits or base")


def names_base(text: str) -> bool:
    """Return whether the text is a number with its base."""
    return _in_base(text) is not None


def _in_base(text: str) -> _NumberInBase | None:
    number = _IN_BASE.fullmatch(re.sub(r"\s", "", open_text(text)))
    if not number:
        return None
    written = number[3]
    base = int(written) if re.fullmatch("[0-9]{1,3}", written) else spoken_number(written)
    return _NumberInBase(*_sign_and_digits(number), base) if base is not None else None


def _without_base(text: str) -> tuple[str, str] | None:
    number = _WITHOUT_BASE.fullmatch(re.sub(r"\s", "", open_text(text)))
    return _sign_and_digits(number) if number else None


def _sign_and_digits(number: re.Match[str]) -> tuple[str, str]:
    digits = number[2].replace(",", "").lstrip("0")
    return number[1].removeprefix("+"), digits or "0"
