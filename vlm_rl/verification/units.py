"""Units: the end of an answer that is a unit, and the exact factors between units.

pint knows units, prefixes and factors. `units.toml` says which of its names count, and adds Chinese
names, currencies and things that problems count. Temperatures, angles in radians and currencies are
never converted into one another.
"""

import functools
import re
import tomllib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

from vlm_rl.verification.grammar import FUNCTIONS
from vlm_rl.verification.notation import Token, depths, enclosed, normalise, tokens

_TABLE = tomllib.loads(Path(__file__).with_name("units.toml").read_text(encoding="utf-8"))
_MEASURED, _PREFIXED, _PREFIXES, _LETTERS, _FAMILIAR, _NO_VALUE_END, _NEVER_INSIDE = (
    frozenset(_TABLE[name].split())
    for name in (
        *("measured", "prefixed", "prefixes", "letters", "familiar"),
        *("no_value_end", "never_inside"),
    )
)
_NAMES: dict[str, str] = {
    word: name for name, words in _TABLE["spellings"].items() for word in words.split()
}
_APART = {words: name for name, spellings in _TABLE["apart"].items() for words in spellings}
_COUNTED = _TABLE["counted"]
_NOUNS = {
    noun: forms.split()[0] for forms in _COUNTED["nouns"].split("·") for noun in forms.split()
}
_ADJECTIVES = frozenset(_COUNTED["adjectives"].split())
_CHINESE_NOUNS: dict[str, str] = _COUNTED["chinese_nouns"]
_CHINESE_COUNT = re.compile(f"([{_COUNTED['measure_words']}])({'|'.join(_CHINESE_NOUNS)})?")
_POWERS_BEFORE: dict[str, str] = _TABLE["powers_before"]
_SYNTAX: dict[str, str] = _TABLE["syntax"]
CURRENCIES = frozenset((r"\dollar", r"\yen", r"\pounds", r"\euro", r"\rupee"))
"""The currency signs, which stand before the number."""


class Unit(NamedTuple):
    """A unit in base units: the factor, and the powers of the base units. `sure` is false for plain
    letters, which are a unit only if the gold says so."""

    factor: Fraction
    powers: tuple[tuple[str, Fraction], ...]
    sure: bool = True


def conversion(gold: Unit | None, given: Unit | None) -> Fraction | None:
    """Return the factor from the given unit to the gold's, 1 if a unit is left out.

    None if the units measure different things.
    """
    if gold is None or given is None:
        return Fraction(1)
    kinds = [dict(unit.powers) for unit in (gold, given)]
    if any("filler_unit" in kind for kind in kinds):
        lengths = [tuple(kind.values()) for kind in kinds if set(kind) <= {"filler_unit", "meter"}]
        return Fraction(1) if len(lengths) == 2 and lengths[0] == lengths[1] else None
    if {*kinds[1]} == {"angle_degree"} and {*kinds[0]} <= {"celsius", "fahrenheit"}:
        return Fraction(1)  # an answer's degree sign alone stands for the gold's temperature, too
    same = kinds[0] == kinds[1] or _same_but_adjectives(*kinds)
    return given.factor / gold.factor if same else None


def _same_but_adjectives(*kinds: dict[str, Fraction]) -> bool:
    """Read `12 small cubes` as `12 cubes` beside these, and `4本书` as `4 books`."""
    a, b = ({word for name in kind for word in name.split(" ")} for kind in kinds)
    alike = [*map(len, kinds)] == [1, 1] and {*kinds[0].values()} == {*kinds[1].values()}
    return alike and (a < b or b < a)


def is_percent(unit: Unit | None) -> bool:
    """Return whether a unit is the percent sign."""
    return unit is not None and dict(unit.powers) == {"hundredth_part": 1}


@functools.lru_cache(maxsize=4096)
def unit_of(text: str) -> Unit | None:
    """Return the unit that a text names, such as the unit field of a row; None if it is none."""
    return _unit(tokens(normalise(text)), lenient=True)


def split_unit(parts: Sequence[Token], *, lenient: bool) -> tuple[tuple[Token, ...], Unit | None]:
    """Cut the longest unit off the end of a value: `5`, `cm` of `5 \\text{ cm}`.

    With `lenient`, which is for golds that name their unit and for answers to these, single letters
    count, too; without it only in a quotient behind a space, `5 m/s`.
    """
    parts = tuple(parts)
    for index in range(_first_possible(parts), len(parts)):
        before, behind = parts[:index], parts[index:]
        if before[-1].text in _NO_VALUE_END or depths(before)[-1] != 0:
            continue
        if behind[0].text == "'" and before[-1].kind != "number":
            continue  # the prime of a name
        if behind[0].text == "^" and any(token.text[1:] in FUNCTIONS for token in before):
            continue  # the degrees of `\\sin 30^\\circ` are not those of its value
        quotient = behind[0].spaced and any(
            token.text in ("/", "per", r"\frac") for token in behind
        )
        unit = _unit(behind, lenient=lenient or quotient)
        if unit is not None:
            return before, unit
    return parts, None


def _first_possible(parts: Sequence[Token]) -> int:
    """Return where a unit may begin: behind the last digit that is not a power of a unit."""
    for index in range(len(parts) - 1, 0, -1):
        power = parts[index].kind == "number" and parts[index - 1].text in ("^", "{", "-")
        if parts[index].text in _NEVER_INSIDE or (parts[index].kind == "number" and not power):
            return index + 1
    return 1


def _unit(parts: Sequence[Token], *, lenient: bool) -> Unit | None:
    parts = parts[1:-1] if parts and parts[0].text == "(" and enclosed(parts) else parts
    if not 0 < len(parts) <= 20:
        return None
    if counted := _counted([token.text for token in parts]):
        return Unit(Fraction(1), ((counted, Fraction(1)),))
    expression = _expression(_merged(parts), lenient=lenient)
    if expression is None:
        return None
    size = _size_of(expression[0])
    return size and size._replace(sure=expression[1])


def _counted(words: list[str]) -> str | None:
    """Return what is counted, with adjectives before it: `small cubes`, `本书`."""
    if len(words) == 1 and (counted := _CHINESE_COUNT.fullmatch(words[0])):
        return " ".join(_CHINESE_NOUNS.get(part, part) for part in counted.groups() if part)
    noun = _NOUNS.get(words[-1].casefold())
    if noun is None or len(words) > 4 or not _ADJECTIVES.issuperset(words[:-1]):
        return None
    return " ".join((noun, *sorted(words[:-1])))


def _merged(parts: Sequence[Token]) -> list[Token]:
    """Make one token of what is written as several: `^\\circ C`, `\\mu F`, `k\\Omega`, `''`."""
    merged: list[Token] = []
    for token in parts:
        last = merged[-1].text if merged else ""
        if together := _APART.get(f"{last} {token.text}"):
            merged[-1] = token._replace(kind="name", text=together)
        elif last == r"\mu" and token.kind in ("letters", "command"):
            merged[-1] = token._replace(text="u" + token.text.replace(r"\Omega", "ohm"))
        else:
            merged.append(token)
    return merged


def _expression(parts: Sequence[Token], *, lenient: bool) -> tuple[str, bool] | None:
    """Translate tokens into an expression of pint; say whether all of it is sure to be units."""
    written, sure, power = "", True, ""
    for token in parts:
        times = "*" if re.search(r"[\w)]$", written) else ""
        if token.text in _POWERS_BEFORE:
            power = _POWERS_BEFORE[token.text]
        elif token.text == "^" and not re.search(r"[A-Za-z_]\)?$", written):
            return None
        elif token.text in _SYNTAX:
            over = "/" if token.text == "{" and written.endswith(")") else ""
            written += over + _SYNTAX[token.text]
        elif token.text == r"\frac":
            written += times
        elif token.kind == "number":
            if not (re.search(r"\*\*\(?-?$", written) and re.fullmatch("[1-9]", token.text)):
                return None
            written += token.text
        else:
            name = _name(token)
            plain = token.kind == "letters" and not token.upright and _is_doubtful(token)
            if name is None or (plain and not lenient):
                return None
            sure = sure and not plain
            written, power = f"{written}{times}{name}{power}", ""
    return (written, sure) if not power else None


def _is_doubtful(token: Token) -> bool:
    """Return whether plain letters may be names: one, or two right behind a number."""
    size = len(token.text)
    return size == 1 or (size == 2 and token.text not in _FAMILIAR and not token.spaced)


def _name(token: Token) -> str | None:
    """Return the name in pint of one word, None if it is no unit."""
    text = token.text
    if token.kind == "chinese":
        return _chinese_name(text)
    if text in _NAMES:
        return _NAMES[text]
    if not re.fullmatch("[A-Za-z]+", text) or (len(text) == 1 and text not in _LETTERS):
        return None
    any_case = text[1:].islower() or len(text) > 5
    return _name_in_pint(text) or (_name_in_pint(text.lower()) if any_case else None)


def _name_in_pint(text: str) -> str | None:
    for prefix, unit, _ in _registry().parse_unit_name(text, case_sensitive=True)[:1]:
        counts = unit in _PREFIXED if prefix else unit in _MEASURED or unit in _TABLE["definitions"]
        if counts and (not prefix or prefix in _PREFIXES):
            return f"{prefix}{unit}"
    return None


def _chinese_name(text: str) -> str | None:
    """Read `米`, `平方米`, `毫安`, `米每秒`."""
    if text in _NAMES:
        return _NAMES[text]
    if "每" in text:
        over, under = map(_chinese_name, text.split("每", 1))
        return f"{over}/({under})" if over and under else None
    if text[:2] in ("平方", "立方"):
        base = _chinese_name(text[2:])
        return f"({base})**{2 if text[0] == '平' else 3}" if base else None
    base = _NAMES.get(text[1:])
    prefix = _TABLE["chinese_prefixes"].get(text[:1])
    return f"{prefix}{base}" if prefix and base in _PREFIXED else None


_REFUSALS = (ArithmeticError, AssertionError, AttributeError, TokenError, TypeError, ValueError)
"""What pint raises for an expression that is none: its own errors are of these classes, and its
parser and Python's tokenizer let the others through."""


@functools.lru_cache(maxsize=4096)
def _size_of(expression: str) -> Unit | None:
    """Return the size of an expression of pint, None if it is none or has no dimension."""
    if expression.count("**") > 4:
        return None
    try:
        size = _registry().Quantity(Fraction(1), expression).to_root_units()
    except _REFUSALS:
        return None
    powers = sorted((str(base), Fraction(power)) for base, power in size._units.items())
    percent = dict(powers).get("hundredth_part", 1) == 1
    return Unit(Fraction(size.magnitude), tuple(powers)) if powers and percent else None


@functools.cache
def _registry() -> Any:
    import pint  # here, because most questions have no unit, and it takes half a second

    registry: Any = pint.UnitRegistry(  # it would warn of each unit that the table makes exact
        non_int_type=Fraction, cache_folder=None, on_redefinition="ignore"
    )
    for name, definition in _TABLE["definitions"].items():
        registry.define(f"{name} = {definition}")
    return registry
