"""Read an answer: tokens to a typed value. What is left over makes the whole text unreadable.

    value     = [anything arrow] item {(, | ; | and | or) item}
    item      = words | one
    one       = union | relation | named set | ratio | difference | bracketed | quantity
    union     = set {∪ set}
    relation  = one {(= | ≈) one} | name ∈ set | quantity {sign quantity}
    ratio     = quantity {: quantity}
    bracketed = [name of a point] opening item {(, | ;) item} closing | \\{name | condition\\}

This is the order from the loosest bond to the tightest. The form of a text decides what it is;
what it should be is for `equality`, which knows the gold.
"""

import contextlib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from vlm_rl.verification import algebra
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import Node, number
from vlm_rl.verification.names import name_of, without_point_name
from vlm_rl.verification.notation import Token, enclosed, normalise, spelled, split, tokens
from vlm_rl.verification.quantities import Quantity, read_quantity, total
from vlm_rl.verification.regions import EMPTY, REALS, Region, interval, solved, union
from vlm_rl.verification.spoken import spoken_number
from vlm_rl.verification.units import split_unit
from vlm_rl.verification.values import (
    Chain,
    Collection,
    Proportion,
    Relation,
    Value,
    Words,
    as_region,
    has_unit,
)
from vlm_rl.verification.words import is_phrase, without_label

_ARROWS = (r"\Rightarrow", r"\to", r"\rightarrow")
_OR = ("or", "或", "或者")
_SEPARATORS = (*_OR, ",", ";", "、", "and", "和", "与", "且", "以及", "&")
_SIGNS = {
    **{"=": "=", r"\equiv": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!="},
    **{r"\parallel": "parallel", r"\perp": "perpendicular", r"\bot": "perpendicular"},
    **{r"\sim": "similar", r"\cong": "congruent"},
    **{r"\approx": "~", r"\in": "in", "is": "=", "等于": "="},
}
_REALS = (
    *("all real numbers", "all reals", "real numbers", "the set of all real numbers"),
    *("any real number", "全体实数", "所有实数", "任意实数", "一切实数", r"\mathbb { r }"),
)
_EMPTY = (
    *("no solution", "no solutions", "no real solution", "no real solutions", "empty set"),
    *("the empty set", "无解", "空集", r"\emptyset"),
)
_SETS = {**dict.fromkeys(_REALS, REALS), **dict.fromkeys(_EMPTY, EMPTY)}
_BRACKETS = {
    **{"(": {")": "(", "]": "half-open"}, "[": {"]": "[", ")": "half-open"}},
    **{r"\{": {r"\}": "{"}, r"\langle": {r"\rangle": "("}},
}
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")


@functools.lru_cache(maxsize=1 << 14)
def read(text: str, *, lenient: bool = False) -> Value:
    """Return the value that a text stands for.

    With `lenient` single letters behind a number are units. Raises Unparsable.
    """
    text = without_label(normalise(text))
    if _DATE.fullmatch(text):
        return Words(text)
    if _GROUPED.fullmatch(text):
        text = text.replace(" ", "")
    spoken = spoken_number(text)
    return _Reader(lenient).value(tokens(text)) if spoken is None else Quantity(number(spoken))


def plain_number(text: str) -> Fraction | None:
    """Return the exact value of a number without a unit, None for any other text."""
    with contextlib.suppress(Unparsable):
        match read(text):
            case Quantity(tree, None):
                return algebra.exact(tree)
    return None


def cut_unit(text: str) -> tuple[str, str]:
    """Return the text of a number and that of its unit, empty if it has none."""
    parts = tokens(normalise(text))
    value, unit = split_unit(parts, lenient=False)
    rest = parts[len(value) :]
    upright = unit is not None and any(token.upright for token in rest)
    return _joined(value), rf"\text{{ {_joined(rest)}}}" if upright else _joined(rest)


@dataclass(frozen=True)
class _Reader:
    lenient: bool

    def value(self, parts: Sequence[Token]) -> Value:
        """Read a whole answer."""
        parts = _unwrapped(split(parts, *_ARROWS)[-1])
        if not parts:
            raise Unparsable("empty answer")
        if spelled(parts[:4]) == r"\begin{cases}" and spelled(parts[-4:]) == r"\end{cases}":
            return self._list(split(parts[4:-4], r"\\", ",", "&"), offered=False)
        pieces = split(parts, *_SEPARATORS)
        return self._list(pieces, offered=any(token.text in _OR for token in parts))

    def _list(self, pieces: Sequence[tuple[Token, ...]], *, offered: bool) -> Value:
        """Read items. Conditions on one name are one set; `5 feet, 7 inches` is one length."""
        pieces = [piece for piece in pieces if piece]
        if len(pieces) < 2:
            return self._one(pieces[0] if pieces else ())
        items = tuple(map(self._item, pieces))
        regions = [item for item in items if isinstance(item, Region)]
        if len(regions) == len(items) and len({r.name for r in regions if r.name}) < 2:
            if offered:
                return union(regions)._replace(offered=True)
            return functools.reduce(Region.within, regions)
        return total(items) or Collection("", items)

    def _item(self, parts: tuple[Token, ...]) -> Value:
        """Read a member of a list, which may be a word."""
        words = is_phrase(_text(parts)) and not any(token.kind == "number" for token in parts)
        return Words(_text(parts)) if words else self._one(parts)

    def _one(self, parts: tuple[Token, ...]) -> Value:
        """Read what is no list."""
        parts = _unwrapped(parts)
        if len(sets := split(parts, r"\cup")) > 1:
            return union([*map(self._region, sets)])
        if len(sides := split(parts, *_SIGNS)) > 1:
            return self._related(_signs_between(sides, parts), sides)
        if named := _SETS.get(_text(parts)):
            return named
        if len(terms := split(parts, ":", "to", "比")) > 1:
            return self._ratio(terms)
        if len(sets := split(parts, r"\setminus")) == 2:
            return self._region(sets[0]).without(self._region(sets[1]))
        return self._bracketed(without_point_name(parts)) or _as_figure(self._quantity(parts))

    def _region(self, parts: tuple[Token, ...]) -> Region:
        region = as_region(self.value(parts))
        if region is None:
            raise Unparsable("not a set of numbers")
        return region

    def _related(self, signs: list[str], sides: list[tuple[Token, ...]]) -> Value:
        if set(signs) <= {"=", "~"}:
            return self._chain(signs, sides)
        if signs == ["in"] and (name := name_of(sides[0])):
            return self._region(sides[1])._replace(name=name)
        quantities = tuple(map(self._quantity, sides))
        return solved(signs, quantities) or Relation(tuple(signs), quantities)

    def _chain(self, signs: list[str], sides: list[tuple[Token, ...]]) -> Value:
        """Read equal sides, of which the first may be a name, or the second of two."""
        if not sides[0]:
            signs, sides = signs[1:], sides[1:]  # `= 5`, `≈ 5`
        if len(sides) == 1:
            return self.value(sides[0])
        name = name_of(sides[0])
        if name is None and len(sides) == 2 and (name := name_of(sides[1])):
            sides = sides[::-1]
        first = 0 if name is None else 1
        claims = [self._one(side) for side in sides[first:]]
        for index, sign in reversed(list(enumerate(signs[first:], 1))):
            if sign == "~" and not _is_rounding(claims[index - 1], claims.pop(index)):
                raise Unparsable("no approximation of it")
        if name is None:
            return claims[0] if len(claims) == 1 else Chain(None, None, tuple(claims))
        left = None
        with contextlib.suppress(Unparsable):
            left = self._one(sides[0])
        return Chain(name, left, tuple(claims))

    def _ratio(self, terms: list[tuple[Token, ...]]) -> Proportion:
        ratio = Proportion(tuple(map(self._quantity, terms)))
        if has_unit(ratio) and not self.lenient:
            return _Reader(lenient=True)._ratio(terms)
        return ratio

    def _bracketed(self, parts: tuple[Token, ...]) -> Value | None:
        """Read `(1, 2]`, `\\{1, 2\\}`, `(3,-4)`, `\\{x | x > 1\\}`; None if it is none of these."""
        if not parts or parts[0].text not in _BRACKETS or not enclosed(parts):
            return None
        opening, closing = parts[0].text, parts[-1].text
        inside = [piece for token in parts[1:-1] for piece in _without_thousands(token)]
        if opening == r"\{" and not inside:
            return EMPTY
        if opening == r"\{" and len(builder := split(inside, "|", ":")) == 2:
            return self._builder(*builder)
        pieces = split(inside, ",", ";")
        if len(pieces) == 1 and opening != r"\{" and not is_phrase(spelled(inside)):
            return None
        items = tuple(map(self._item, pieces))
        bracket = _BRACKETS[opening].get(closing)
        if bracket is None:
            raise Unparsable("brackets that do not match")
        if bracket == "half-open" or any(map(_is_infinite, items)):
            return interval(opening, items, closing)
        return Collection(bracket, items)

    def _builder(self, member: tuple[Token, ...], condition: tuple[Token, ...]) -> Region:
        """Read the set of the real numbers that meet a condition."""
        name, *domain = map(spelled, split(member, r"\in"))
        region = self._region(condition)
        if domain not in ([], ["R"], [r"\mathbb{R}"]) or region.name not in (None, name):
            raise Unparsable("not a set of numbers")
        return region._replace(name=None)

    def _quantity(self, parts: Sequence[Token]) -> Quantity:
        return read_quantity(parts, lenient=self.lenient)


def _as_figure(quantity: Quantity) -> Quantity:
    """Read the corners of a triangle alone in any order; beside another they correspond."""
    op, args = quantity.tree
    if op == "name" and args[0].startswith("triangle "):
        return Quantity(Node("name", ("".join(sorted(args[0])),)))
    return quantity


def _is_rounding(exact: Value, rounded: Value) -> bool:
    """Return whether values differ by less than one in the last place, unlike `3 \\approx 4`."""
    if not (isinstance(exact, Quantity) and isinstance(rounded, Quantity)):
        return False
    value, near = exact.size, algebra.exact(rounded.tree)
    if value is None or near is None:
        return False
    return abs(value - near) < Fraction(1, 10 ** (len(str(near.denominator)) - 1))


def _is_infinite(value: Value) -> bool:
    return isinstance(value, Quantity) and value.infinite != 0


def _signs_between(sides: list[tuple[Token, ...]], parts: tuple[Token, ...]) -> list[str]:
    """Return the signs at which an expression was split."""
    at = -1
    return [_SIGNS[parts[at := at + len(side) + 1].text] for side in sides[:-1]]


def _without_thousands(token: Token) -> tuple[Token, ...]:
    """Read the comma of `(1,200)` as one between members."""
    return tokens(token.text.replace(",", ", ")) if "," in token.text else (token,)


def _unwrapped(parts: tuple[Token, ...]) -> tuple[Token, ...]:
    """Drop braces around everything."""
    while parts and parts[0].text == "{" and enclosed(parts):
        parts = parts[1:-1]
    return parts


def _text(parts: Sequence[Token]) -> str:
    return " ".join(token.text for token in parts).casefold().strip(" .,;:\"'“”")


def _joined(parts: Sequence[Token]) -> str:
    return "".join(f" {token.text}" if token.spaced else token.text for token in parts).strip()
