"""Units at the end of an answer: cut off, read as a size in base units, compared and converted.

Conversion factors are exact: those of the international yard and pound agreement and of the SI.
Temperatures, years and currencies are never converted into one another.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from vlm_rl.verification.notation import normalise, plain_text
from vlm_rl.verification.words import may_be_unit

UNITS = {
    # name, further spellings, what one of it is: a number times other units
    "m": ("meter meters metre metres 米", None),
    "km": ("kilometer kilometers kilometre kilometres 千米 公里", "1000 m"),
    "dm": ("decimeter decimeters decimetre decimetres 分米", "1/10 m"),
    "cm": ("centimeter centimeters centimetre centimetres 厘米", "1/100 m"),
    "mm": ("millimeter millimeters millimetre millimetres 毫米", "1/1000 m"),
    "in": ("inch inches", "254/10000 m"),
    "ft": ("foot feet", "12 in"),
    "yd": ("yard yards", "3 ft"),
    "mi": ("mile miles", "1760 yd"),
    "kg": ("kilogram kilograms 千克 公斤", None),
    "g": ("gram grams 克", "1/1000 kg"),
    "mg": ("milligram milligrams 毫克", "1/1000 g"),
    "tonne": ("tonnes 吨", "1000 kg"),
    "lb": ("lbs pound pounds", "45359237/100000000 kg"),
    "oz": ("ounce ounces", "1/16 lb"),
    "s": ("sec secs second seconds 秒", None),
    "ms": ("millisecond milliseconds 毫秒", "1/1000 s"),
    "min": ("mins minute minutes 分钟", "60 s"),
    "h": ("hr hrs hour hours 小时", "60 min"),
    "day": ("days 天", "24 h"),
    "week": ("weeks 周", "7 day"),
    "year": ("years yr yrs 年", None),
    "l": ("liter liters litre litres 升", "1/1000 m^3"),
    "ml": ("milliliter milliliters millilitre millilitres 毫升", "1/1000 l"),
    "°": ("degree degrees deg 度", None),
    "rad": ("radian radians", None),
    "°c": ("celsius", None),
    "°f": ("fahrenheit", None),
    "k": ("kelvin kelvins", None),
    "a": ("amp amps ampere amperes", None),
    "mol": ("mole moles", None),
    "n": ("newton newtons", "1 kg m s^-2"),
    "j": ("joule joules", "1 n m"),
    "kj": ("kilojoule kilojoules", "1000 j"),
    "w": ("watt watts", "1 j s^-1"),
    "kw": ("kilowatt kilowatts", "1000 w"),
    "v": ("volt volts", "1 w a^-1"),
    "pa": ("pascal pascals", "1 n m^-2"),
    "kpa": ("kilopascal kilopascals", "1000 pa"),
    "hz": ("hertz", "1 s^-1"),
    "$": ("dollar dollars usd", None),
    "cent": ("cents", "1/100 $"),
    "元": ("yuan", None),
    "%": ("percent", None),
    "unit": ("units", None),
}
_NAMES = {n: unit for unit, (names, _) in UNITS.items() for n in (unit, *names.split())}
_POWER = r"(?:\^\{?-?\d\}?)?"
_WORD = rf"[A-Za-z]+{_POWER}"
_SUFFIX = re.compile(
    r"\s*(?:"
    r"(?P<sure>\^\s*\\circ(?:\s*[CF])?|\\?%|[\u4e00-\u9fff]+"
    rf"|\\(?:text|mathrm|textrm|mbox|rm)\s*\{{[^{{}}\d]*\}}{_POWER})"
    rf"|(?<![A-Za-z\\])(?P<word>(?:(?:square|sq|cubic)\s+)?{_WORD}(?:\s*[/*]\s*{_WORD}|\s+per\s+{_WORD})*))"
)
_HAS_LETTERS = re.compile(r"[^\W\d_]")
_SQUARED = (("square ", "^2"), ("sq ", "^2"), ("cubic ", "^3"))

Size = tuple[Fraction, tuple[tuple[str, int], ...]]
"""How many base units, and which to which power."""


def split_unit(text: str) -> tuple[str, str]:
    """Cut a unit off the end: `5 \\mathrm{~cm}` gives ("5", "cm"), `140°` gives ("140", "°").

    Bare letters count only where they name a known unit: the x of `2x` is none. In a text command
    any few words do, unless they take the answer back, as `or four` does.
    """
    text = normalise(text)
    for found in _SUFFIX.finditer(text):
        if found.end() == len(text) and re.search(r"[^\s,;:]\s*$", text[: found.start()]):
            unit = canonical_unit(found[0])
            sure = found["sure"] and (not _HAS_LETTERS.search(unit) or may_be_unit(found[0]))
            if sure or size_of(unit) is not None:
                return text[: found.start()], unit
    return text, ""


def canonical_unit(text: str) -> str:
    """The one spelling of a unit: `\\text{ Degrees}` and `^\\circ` are both `°`."""
    words = plain_text(text).replace(r"^\circ", "°").replace(r"\cdot", "*")
    for word, power in _SQUARED:
        words = re.sub(rf"\b{word}([^\W\d_]+)", rf"\1{power}", words)
    words = re.sub(r"(?<=[a-z\d])\s+(?=[a-z])", "*", re.sub(r"\s*\bper\b\s*", "/", words))
    words = re.sub(r"[{}\\\s]", "", words)
    return "".join(_NAMES.get(part, part) for part in re.split(r"(\^-?\d|[/*])", words))


def conversion(gold: str, prediction: str) -> Fraction | None:
    """What a prediction's number is multiplied with to be in the gold's unit; 1 where a unit is
    missing, which is no mistake; None where the units measure different things."""
    if gold == prediction or "" in (gold, prediction) or "unit" in (gold, prediction):
        return Fraction(1)
    if "°" in (gold, prediction) and {gold, prediction} & {"°c", "°f"}:
        return Fraction(1)  # a degree sign alone stands for temperatures too
    wanted, given = size_of(gold), size_of(prediction)
    if wanted is None or given is None or wanted[1] != given[1]:
        return None
    return given[0] / wanted[0]


@functools.lru_cache(maxsize=1024)
def size_of(unit: str) -> Size | None:
    """A canonical unit in base units, None where a part of it is not known."""
    factor, powers = Fraction(1), Counter[str]()
    for name, power in _parts(unit):
        if name not in UNITS or abs(power) > 9:
            return None
        definition = UNITS[name][1]
        if definition is None:
            powers[name] += power
            continue
        number, *rest = definition.split()
        size = size_of("*".join(rest))
        assert size is not None, "definitions use known units"
        factor *= (Fraction(number) * size[0]) ** power
        for base, inner in size[1]:
            powers[base] += inner * power
    return factor, tuple(sorted((base, power) for base, power in powers.items() if power))


def _parts(unit: str) -> Iterator[tuple[str, int]]:
    """`m/s^2` is m once and s -2 times."""
    sign = 1
    for part in re.split(r"([/*])", unit):
        if part == "/":
            sign = -1
        elif part != "*":
            name, _, power = part.partition("^")
            known = re.fullmatch(r"-?\d", power or "1")
            yield (name, sign * int(power or 1)) if known else (part, sign)
