"""Numbers read exactly: what most golds are, answered without computer algebra."""

import re
from fractions import Fraction

from vlm_rl.verification.gold import Gold, GoldUnparsable
from vlm_rl.verification.notation import normalise

_RELATIVE = Fraction(1, 10**6)
"""Two non-integers this close are the same number, where the problem names no tolerance."""

_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_SIGNED = rf"([+-]?)\s*({_DECIMAL})"
_SCIENTIFIC = re.compile(
    rf"{_SIGNED}(?:[eE]([+-]?\d{{1,3}})|\s*\\(?:times|cdot)\s*10\s*\^\s*\{{?([+-]?\d{{1,3}})\}}?)?"
)
_SLASH = re.compile(rf"{_SIGNED}\s*/\s*({_DECIMAL})")
_MIXED = re.compile(r"([+-]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)")
_ORDINAL = re.compile(r"(\d+)\s*\^?\s*\{?\s*(?:\\(?:text|mathrm|rm)\s*\{)?\s*(?:st|nd|rd|th)\s*\}*")
_DEGREES = re.compile(r"(\d+)\s*\^\s*\\circ\s*(\d+)\s*'(?:\s*(\d+)\s*'')?")
_FRACTION = re.compile(
    rf"([+-]?)\s*(\d*)\s*\\frac\s*\{{\s*([+-]?)({_DECIMAL})\s*\}}\s*\{{\s*({_DECIMAL})\s*\}}"
)
_REPEATING = re.compile(r"([+-]?)\s*(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?")


def plain_number(text: str) -> Fraction | None:
    """Exact value of an integer, decimal, fraction, mixed, ordinal or repeating number,
    power-of-ten notation or degrees with minutes; None for everything else."""
    text = normalise(text)
    if found := _SCIENTIFIC.fullmatch(text):
        sign, digits, *exponents = found.groups()
        return _signed(
            sign, _decimal(digits) * Fraction(10) ** int(next(filter(None, exponents), 0))
        )
    if found := _REPEATING.fullmatch(text):
        sign, whole, once, again = found.groups()
        part = Fraction(int(again), 10 ** len(again) - 1) / 10 ** len(once)
        return _signed(sign, _decimal(f"{whole or 0}.{once}") + part)
    if found := _SLASH.fullmatch(text):
        sign, top, bottom = found.groups()
        return _signed(sign, _divide(top, bottom))
    if found := _MIXED.fullmatch(text):
        sign, whole, top, bottom = found.groups()
        part = _divide(top, bottom)
        return None if part is None else _signed(sign, int(whole) + part)
    if found := _ORDINAL.fullmatch(text):
        return Fraction(found[1])
    if found := _DEGREES.fullmatch(text):
        degrees, minutes, seconds = (int(part or 0) for part in found.groups())
        return Fraction(3600 * degrees + 60 * minutes + seconds, 3600)
    if found := _FRACTION.fullmatch(text):
        sign, whole, inner_sign, top, bottom = found.groups()
        if whole and inner_sign:
            return None
        part = _signed(inner_sign, _divide(top, bottom))
        return None if part is None else _signed(sign, int(whole or 0) + part)
    return None


def close(gold: Fraction, prediction: Fraction, tolerance: tuple[tuple[str, float], ...]) -> bool:
    """Where one is an integer they must agree exactly, else to 1e-6 of the larger, unless a
    tolerance is given: `decimals` to round both to, or the largest `abs` or `rel` difference."""
    if not tolerance:
        exact = 1 in (gold.denominator, prediction.denominator)
        allowed = 0 if exact else _RELATIVE * max(abs(gold), abs(prediction))
        return abs(gold - prediction) <= allowed
    return all(_within(gold, prediction, rule, size) for rule, size in tolerance)


def closeness(tolerance: tuple[tuple[str, float], ...]) -> str:
    """How near `close` wants numbers to be, in words."""
    return "within the tolerance" if tolerance else "within 1e-6"


def check_tolerance(gold: Gold) -> None:
    """Raise GoldUnparsable for a rule that is unknown or a size that is negative."""
    for rule, size in gold.tolerance:
        if rule not in ("decimals", "abs", "rel") or not size >= 0:
            raise GoldUnparsable("a tolerance is not decimals, abs or rel and >= 0")


def claimed_values(text: str) -> list[str]:
    """What a chain `x = 2+3 = 5` claims: 2+3 and 5. All must be right, so that `3=5` is no 5."""
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


def _divide(top: str, bottom: str) -> Fraction | None:
    return _decimal(top) / _decimal(bottom) if _decimal(bottom) else None


def _signed(sign: str, value: Fraction | None) -> Fraction | None:
    return -value if sign == "-" and value is not None else value
