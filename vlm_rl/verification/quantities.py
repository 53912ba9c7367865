"""Quantities, the tightest bond of a text: expressions with unit, multipliers and currency."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeGuard

from vlm_rl.verification import algebra
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import Node, number, parse
from vlm_rl.verification.notation import Token
from vlm_rl.verification.spoken import FRACTION_WORDS, MULTIPLIERS, spoken_number
from vlm_rl.verification.units import CURRENCIES, Unit, split_unit, unit_of

_INFINITY = Node("constant", ("infinity",))
_FACTORS = {**FRACTION_WORDS, **MULTIPLIERS}
_THOUSANDS = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion"}
_NOT_BEFORE_A_PART = ("^", "{", "-", "/", "_", "}")


class Quantity(NamedTuple):
    """A number or an expression, with the unit it was given."""

    tree: Node
    unit: Unit | None = None

    @property
    def size(self) -> Fraction | None:
        """The value, to 30 digits if it is irrational; None if it is not one real number."""
        return algebra.value(self.tree, numeric=True)

    @property
    def infinite(self) -> int:
        """The sign of an infinite value, 0 for others."""
        return (self.tree == _INFINITY) - (self.tree == Node("negative", (_INFINITY,)))


def are_quantities(values: Sequence[object]) -> TypeGuard[Sequence[Quantity]]:
    """Return whether all values are quantities."""
    return all(isinstance(value, Quantity) for value in values)


def read_quantity(parts: Sequence[Token], *, lenient: bool) -> Quantity:
    """Read an expression with its unit, multipliers and currency: `$5k`, `1.2 million km`.

    With `lenient` single letters behind a number are units. Raises Unparsable.
    """
    parts = tuple(_with_split_multipliers(parts))
    currency = parts[0].text if parts and parts[0].text in CURRENCIES else None
    if currency:
        parts = _respelled(parts[1:], _THOUSANDS)
    value, unit = split_unit(parts, lenient=lenient)
    value, factor = _multiplied(value)
    if currency:
        if unit not in (None, unit_of(currency)):
            raise Unparsable("a currency beside another unit")
        unit = unit_of(currency)
    spoken = spoken_number(" ".join(token.text for token in value)) if unit or factor != 1 else None
    try:
        tree = parse(value) if spoken is None else number(spoken)
    except Unparsable:
        return _compound(parts) or Quantity(parse(parts))
    return Quantity(tree if factor == 1 else Node("*", (tree, number(factor))), unit)


def total(values: Sequence[object]) -> Quantity | None:
    """Add parts of one quantity, each in a smaller unit than the one before; None for others."""
    if not are_quantities(values):
        return None
    units = [value.unit for value in values if value.unit]
    if units and dict(units[0].powers) == {"angle_degree": 1}:  # its minutes are no time
        parts = {"minutes": "'", "seconds": "''"}
        of_time = {unit_of(word): unit_of(mark) for word, mark in parts.items()}
        units = [of_time.get(unit) or unit for unit in units]
    sizes = [size for value in values if (size := algebra.exact(value.tree)) is not None]
    factors = [unit.factor for unit in units]
    falling = sorted(set(factors), reverse=True) == factors
    alike = len({unit.powers for unit in units}) == 1
    if not len(units) == len(sizes) == len(values) or not (falling and alike) or min(sizes) < 0:
        return None
    added = sum(size * factor for size, factor in zip(sizes, factors, strict=True))
    return Quantity(number(added / factors[0]), units[0])


def _compound(parts: Sequence[Token]) -> Quantity | None:
    """Read `5 feet 7 inches`, `30°15'`, `2小时30分`."""
    parts = _respelled(parts, {"分": "分钟"})  # behind degrees or hours it counts no points
    starts = [
        at
        for at, token in enumerate(parts)
        if at == 0 or (token.kind == "number" and parts[at - 1].text not in _NOT_BEFORE_A_PART)
    ]
    if len(starts) < 2:
        return None
    quantities = []
    for start, end in zip(starts, [*starts[1:], len(parts)], strict=True):
        piece = [token for token in parts[start:end] if token.text not in ("and", ",")]
        value, unit = split_unit(piece, lenient=True)
        if len(value) != 1 or unit is None:
            return None
        quantities.append(Quantity(parse(value), unit))
    return total(quantities)


def _multiplied(parts: Sequence[Token]) -> tuple[tuple[Token, ...], Fraction]:
    """Take multipliers and fraction words off the end: `1.2 million`, `3 tenths`."""
    parts, factor = tuple(parts), Fraction(1)
    while len(parts) > 1 and parts[-1].text in _FACTORS:
        factor *= _FACTORS[parts[-1].text]
        parts = parts[:-1]
    return parts, factor


def _with_split_multipliers(parts: Sequence[Token]) -> Iterator[Token]:
    """Cut multipliers off the words behind them: `万元` is `万` and `元`."""
    for token in parts:
        word = token.text.lstrip("十百千万亿")
        if word != token.text and unit_of(token.text) is None:
            yield from (token._replace(text=one) for one in token.text.removesuffix(word))
            token = token._replace(text=word)
        if token.text:
            yield token


def _respelled(parts: Sequence[Token], words: Mapping[str, str]) -> tuple[Token, ...]:
    return tuple(token._replace(text=words.get(token.text, token.text)) for token in parts)
