"""Units at the end of an answer: cut off, given one spelling, compared. Nothing is converted."""

import re

from vlm_rl.verification.notation import normalise, plain_text

_SPELLINGS = {
    "°": "degree degrees deg 度", "%": "percent",
    "mm": "millimeter millimeters millimetre millimetres 毫米",
    "cm": "centimeter centimeters centimetre centimetres 厘米",
    "m": "meter meters metre metres 米",
    "km": "kilometer kilometers kilometre kilometres 千米 公里",
    "in": "inch inches", "ft": "foot feet", "yd": "yard yards", "mi": "mile miles",
    "g": "gram grams 克", "kg": "kilogram kilograms 千克 公斤", "lb": "lbs pound pounds",
    "s": "sec second seconds 秒", "min": "minute minutes 分钟", "h": "hr hrs hour hours 小时",
    "day": "days 天", "year": "years 年", "l": "liter liters litre litres 升", "ml": "毫升",
    "$": "dollar dollars usd", "cent": "cents", "元": "yuan", "n": "newton newtons",
    "j": "joule joules", "w": "watt watts", "v": "volt volts", "a": "amp amps ampere amperes",
    "pa": "pascal pascals", "hz": "hertz", "k": "kelvin", "mol": "mole moles", "unit": "units",
}  # fmt: skip
_CANONICAL = {name: unit for unit, names in _SPELLINGS.items() for name in (unit, *names.split())}
_POWER = r"(?:\^\{?-?\d\}?)?"
_WORD = rf"[A-Za-z]+{_POWER}"
_SUFFIX = re.compile(
    r"\s*(?:"
    r"(?P<sure>\^\s*\\circ(?:\s*[CF])?|\\?%|[\u4e00-\u9fff]+"
    rf"|\\(?:text|mathrm|textrm|mbox|rm)\s*\{{[^{{}}\d]*\}}{_POWER})"
    rf"|(?<![A-Za-z\\])(?P<word>{_WORD}(?:/{_WORD})?))"
)


def split_unit(text: str) -> tuple[str, str]:
    """Cut a unit off the end: `5 \\mathrm{~cm}` gives ("5", "cm"), `140°` gives ("140", "°").

    Bare letters count only where they name a known unit: the x of `2x` is none.
    """
    text = normalise(text)
    for found in _SUFFIX.finditer(text):
        if found.end() == len(text) and found.start() > 0:
            unit = canonical_unit(found[0])
            if found["sure"] or all(_base(part) in _CANONICAL for part in _parts(found[0])):
                return text[: found.start()], unit
    return text, ""


def canonical_unit(text: str) -> str:
    """The one spelling of a unit: `\\text{ Degrees}` and `^\\circ` are both `°`."""
    parts = _parts(text)
    return "/".join(_CANONICAL.get(_base(p), _base(p)) + p[len(_base(p)) :] for p in parts)


def same_unit(gold: str, prediction: str) -> bool:
    """False where both name a unit and the units differ; a missing unit is no mistake."""
    return not gold or not prediction or gold == prediction or "unit" in (gold, prediction)


def _parts(text: str) -> list[str]:
    words = plain_text(text.replace(r"^\circ", "°")).replace(r"^\circ", "°")
    return re.sub(r"[{}\\\s]", "", words).split("/")


def _base(part: str) -> str:
    return part.partition("^")[0]
