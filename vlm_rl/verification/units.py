"""Units at the end of an answer: cut off, read as a size in base units, compared and converted.

Conversion factors are exact: those of the international yard and pound agreement and of the SI.
Temperatures, years and currencies are never converted into one another. An unknown unit is a few
words, none of which takes the answer back.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from vlm_rl.verification.exact_numbers import NUMBER_WORDS
from vlm_rl.verification.notation import normalise, open_text, plain_text

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
_POWER_NAMES = (("square ", "^2"), ("sq ", "^2"), ("cubic ", "^3"))
_WORD_IN_TEXT = re.compile(r"[^\W\d_]+")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_HEDGES = NUMBER_WORDS | frozenset(
    (
        *("or", "and", "nor", "not", "but", "maybe", "perhaps", "possibly", "probably", "vs"),
        *("versus", "if", "either", "neither", "else", "otherwise", "alternatively", "instead"),
        *("also", "unless", "except", "might", "could", "to", "rather", "both", "then", "unsure"),
    )
)
_CHINESE_HEDGE = re.compile("[或和与及不非若零一二三四五六七八九十百两]|还是|可能|也许")

Size = tuple[Fraction, tuple[tuple[str, int], ...]]
"""How many base units, and which to which power."""


def split_unit(text: str) -> tuple[str, str]:
    """Cut a unit off the end: `5 \\mathrm{~cm}` gives ("5", "cm"), `140°` gives ("140", "°").

    Bare letters count only if they name a known unit: the x of `2x` is not a unit. In a text
    command any few words count, unless they take the answer back, as `or four` does.
    """
    text = normalise(text)
    for suffix in _SUFFIX.finditer(text):
        if suffix.end() == len(text) and re.search(r"[^\s,;:]\s*$", text[: suffix.start()]):
            unit = canonical_unit(suffix[0])
            sure = suffix["sure"] and (not _HAS_LETTERS.search(unit) or may_be_unit(suffix[0]))
            if sure or size_of(unit) is not None:
                return text[: suffix.start()], unit
    return text, ""


def may_be_unit(text: str) -> bool:
    """Return whether a text is one to three words, without digits or punctuation of a sentence,
    none of which takes the answer back."""
    text = open_text(text)
    plain = not re.search(r"[\d,;:=<>?!|]", re.sub(r"\^\{?-?\d\}?$", "", text))
    return plain and 1 <= len(_WORD_IN_TEXT.findall(text)) <= 3 and not takes_back(text)


def takes_back(text: str) -> bool:
    """Return whether a word of the text names another number or an alternative: `or`, `four`."""
    spoken = {word.casefold() for word in _WORD_IN_TEXT.findall(_COMMAND.sub(" ", text))}
    return bool(spoken & _HEDGES) or bool(_CHINESE_HEDGE.search(text))


def canonical_unit(text: str) -> str:
    """Return the one spelling of a unit: `\\text{ Degrees}` and `^\\circ` are both `°`."""
    unit = plain_text(text).replace(r"^\circ", "°").replace(r"\cdot", "*")
    for name, power in _POWER_NAMES:
        unit = re.sub(rf"\b{name}([^\W\d_]+)", rf"\1{power}", unit)
    unit = re.sub(r"(?<=[a-z\d])\s+(?=[a-z])", "*", re.sub(r"\s*\bper\b\s*", "/", unit))
    unit = re.sub(r"[{}\\\s]", "", unit)
    return "".join(_NAMES.get(part, part) for part in re.split(r"(\^-?\d|[/*])", unit))


def conversion(gold: str, prediction: str) -> Fraction | None:
    """Return the factor from the prediction's unit to the gold's.

    It is 1 if a unit is missing, which is not a mistake, and None if the units measure different
    things.
    """
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
    """Return a canonical unit in base units, None if a part of it is unknown."""
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
    """Yield each unit with its power: m, 1 and s, -2 for `m/s^2`."""
    sign = 1
    for part in re.split(r"([/*])", unit):
        if part == "/":
            sign = -1
        elif part != "*":
            name, _, power = part.partition("^")
            known = re.fullmatch(r"-?\d", power or "1")
            yield (name, sign * int(power or 1)) if known else (part, sign)
