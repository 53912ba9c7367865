"""Read an answer: tokens to a typed value. What is left over makes the whole text unreadable.

    value     = [arrow] item {(, | ; | and | or) item}
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
from vlm_rl.verification.arithmetic import last_place
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import Node, number, parse
from vlm_rl.verification.names import name_of, without_point_name
from vlm_rl.verification.notation import Token, enclosed, normalise, spelled, split, tokens
from vlm_rl.verification.quantities import Quantity, read_quantity, total
from vlm_rl.verification.regions import EMPTY, REALS, Region, interval, solved, union
from vlm_rl.verification.spoken import in_digits, spoken_number
from vlm_rl.verification.units import is_percent, split_unit, unit_of
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
_OR = frozenset(("or", "或", "或者", r"\lor"))
_SEPARATORS = (*_OR, r"\land", ",", ";", "、", "and", "和", "与", "且", "以及", "&")
_SIGNS = {
    **{"=": "=", r"\equiv": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!="},
    **{r"\parallel": "parallel", r"\perp": "perpendicular", r"\bot": "perpendicular"},
    **{r"\sim": "similar", r"\cong": "congruent"},
    **{r"\approx": "~", r"\in": "in", "is": "=", "equals": "=", "等于": "="},
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
_MAX_CONDITIONS = 6
_NUMERAL = re.compile(r"-?\d+(?:\.\d+)?")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}")
_SCIENTIFIC = re.compile(r"^([+-]?\d+)e(-?\d)(?=$| |\\text)")
_INTEGERS = re.compile(r"([a-z])\\in(?:\\mathbb)?\{?([ZN])\}?")
_SYMBOLS = {"Z": "\N{DOUBLE-STRUCK CAPITAL Z}", "N": "\N{DOUBLE-STRUCK CAPITAL N}"}
_GROUPED = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")


@functools.lru_cache(maxsize=1 << 14)
def read(text: str, *, lenient: bool = False) -> Value:
    """Return the value that a text stands for.

    With `lenient` single letters behind a number are units. Raises Unparsable.
    """
    if _NUMERAL.fullmatch(text):
        return Quantity(parse(tokens(text)))
    text = without_label(normalise(text))
    text = _SCIENTIFIC.sub(r"\1E\2", text)  # `2e5` is a product with e only within a formula
    if not text.isascii() or " and a" in text:
        text = in_digits(text, unit_of)
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
    """Return the text of a number and that of its unit, empty if it has none, as normalised."""
    text = normalise(text)
    value, unit = split_unit(tokens(text), lenient=False)
    end = next((end for end in range(len(text)) if tokens(text[:end]) == value), len(text))
    return (text[:end], text[end:]) if unit else (text, "")


@dataclass(frozen=True)
class _Reader:
    lenient: bool

    def value(self, parts: Sequence[Token]) -> Value:
        """Read a whole answer."""
        *steps, parts = split(parts, *_ARROWS)
        if any(steps):
            raise Unparsable("words beside the answer")
        parts = _without_title(_unwrapped(parts))
        if not parts:
            raise Unparsable("empty answer")
        pieces = _of_integers([piece for piece in split(parts, *_SEPARATORS) if piece])
        if len(pieces) < 2:
            return self._one(pieces[0] if pieces else ())
        items = [*map(self._item, pieces)]
        written = frozenset(token.text for token in parts)
        if written & _OR and any(isinstance(item, Words) for item in items):
            raise Unparsable("one of several words")
        return self._together(items, written)

    def _together(self, items: list[Value], written: frozenset[str]) -> Value:
        """Join items. Conditions on one name are one set; `5 feet, 7 inches` is one length."""
        regions = [item for item in items if isinstance(item, Region) and item != REALS]
        if len(regions) + items.count(REALS) == len(items) and regions:
            if written & _OR:
                return union(regions)._replace(offered=True)
            if all(region.condition for region in regions) and len({r.name for r in regions}) == 1:
                return _met(regions, listed="," in written)
        if written & {r"\land", r"\lor"} and not all(isinstance(i, Chain) for i in items):
            raise Unparsable("a connective between what is no condition")
        return items[0] if len(items) == 1 else total(items) or Collection("", tuple(items))

    def _line(self, parts: tuple[Token, ...]) -> Value:
        """Read a row of a system, or of a function in pieces: its value and its condition."""
        cells = [cell for cell in split(parts, "&") if cell]
        signs = [cell[end].text in _SIGNS for cell in cells for end in (0, -1)]
        if len(cells) == 2 and not any(signs):
            return Collection("(", tuple(self.value(_without_if(cell)) for cell in cells))
        return self.value([token for token in parts if token.text != "&"])

    def _item(self, parts: tuple[Token, ...]) -> Value:
        """Read a member of a list, which may be a word."""
        words = is_phrase(_text(parts)) and not any(token.kind == "number" for token in parts)
        return Words(_text(parts)) if words else self._one(parts)

    def _one(self, parts: tuple[Token, ...]) -> Value:
        """Read what is no list."""
        parts = _unwrapped(parts)
        if spelled(parts[:4]) == r"\begin{cases}" and spelled(parts[-4:]) == r"\end{cases}":
            return self._together([*map(self._line, _lines(parts[4:-4]))], frozenset())
        if len(of := split(parts, r"\bmod")) == 2:
            return Collection("mod", (self._one(of[0]), self._quantity(of[1])))
        sides = split(parts, *_SIGNS)
        if len(sets := split(parts, r"\cup")) > 1 and not name_of(sides[0]):
            return union([*map(self._region, sets)])
        if len(sides) > 1:
            return self._related(_signs_between(sides, parts), sides)
        if named := _SETS.get(_text(parts)):
            return named
        if len(terms := split(parts, ":", "to", "比")) > 1:
            return self._ratio(terms)
        if len(sets := split(parts, r"\setminus", "except")) == 2:
            return self._region(sets[0]).without(self._region(sets[1], points=True))
        name, point = without_point_name(parts)
        if bracketed := self._bracketed(point):
            return Chain(name, None, (bracketed,)) if name else bracketed
        return _as_figure(self._quantity(parts))

    def _region(self, parts: tuple[Token, ...], *, points: bool = False) -> Region:
        value = self.value(parts)
        single = points and isinstance(value, Quantity)
        region = as_region(Collection("{", (value,)) if single else value)
        if region is None:
            raise Unparsable("not a set of numbers")
        return region

    def _related(self, signs: list[str], sides: list[tuple[Token, ...]]) -> Value:
        if set(signs) <= {"=", "~"}:
            return self._chain(signs, sides)
        if signs == ["in"] and (name := name_of(sides[0])):
            return self._region(sides[1])._replace(name=name)
        if {"~", "in"} & set(signs):
            raise Unparsable("not read as mathematics")
        quantities = tuple(map(self._quantity, sides))
        return solved(signs, quantities) or Relation(tuple(signs), quantities)

    def _chain(self, signs: list[str], sides: list[tuple[Token, ...]]) -> Value:
        """Read equal sides, of which the first may be a name, or the second of two."""
        if not sides[0]:
            signs, sides = signs[1:], sides[1:]  # `= 5`, `≈ 5`
        if len(sides) == 1:
            return self.value(sides[0])
        name = name_of(sides[0])
        if len(sides) == 2 and (system := self._system(*sides)):
            return system
        if name is None and len(sides) == 2 and (name := name_of(sides[1])):
            sides = sides[::-1]
        first = 0 if name is None else 1
        claims = [self._one(side) for side in sides[first:]]
        rounded = None
        for index, sign in reversed(list(enumerate(signs[first:], 1))):
            if sign == "~":
                rounded = claims.pop(index)
                if not _is_rounding(claims[index - 1], rounded):
                    raise Unparsable("no approximation of it")
        left = None
        if name is not None:
            with contextlib.suppress(Unparsable):
                left = self._one(sides[0])
        return Chain(name, left, tuple(claims), rounded)

    def _system(self, names: tuple[Token, ...], values: tuple[Token, ...]) -> Value | None:
        """Read `(x, y) = (3, -1)` as `x = 3, y = -1`."""
        if not (enclosed(names) and names[0].text == "(" and enclosed(values)):
            return None
        if not all(map(name_of, split(names[1:-1], ","))):
            return None
        left, right = self._one(names), self._one(values)
        if not (isinstance(left, Collection) and isinstance(right, Collection)):
            return None
        keys = [
            i.tree.args[0] for i in left.items if isinstance(i, Quantity) and i.tree.op == "name"
        ]
        if not len(keys) == len(left.items) == len(right.items):
            return None
        pairs = zip(keys, left.items, right.items, strict=True)
        return Collection("", tuple(Chain(key, name, (value,)) for key, name, value in pairs))

    def _ratio(self, terms: list[tuple[Token, ...]]) -> Proportion:
        if any(is_phrase(_text(term)) and term[0].kind == "letters" for term in terms):
            raise Unparsable("words beside the answer")
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
        infinite = any(isinstance(item, Quantity) and item.infinite for item in items)
        if bracket == "half-open" or infinite:
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
    if is_percent(rounded.unit) and exact.unit is None:
        value *= 100
    digits = max((n.args[1] or 0 for n in rounded.tree.walk() if n.op == "number"), default=0)
    error = abs(value - near)
    close = error < last_place(near, digits) if digits else 2 * error <= 1
    return close and 100 * error <= abs(near)


def _met(regions: list[Region], *, listed: bool) -> Region:
    """Return where all conditions hold. Each must say something: one that does not is a second
    answer. `x<1, x>3`, which never holds, lists the parts of a union."""
    if len(regions) == 1:
        return regions[0]
    if len(regions) > _MAX_CONDITIONS:
        raise Unparsable("refused: many conditions")
    met = functools.reduce(Region.within, regions)
    if not met.parts and listed:
        return union(regions)._replace(offered=True)
    for index in range(len(regions)):
        others = regions[:index] + regions[index + 1 :]
        if functools.reduce(Region.within, others).parts == met.parts:
            raise Unparsable("more than one condition")
    return met


def _of_integers(pieces: list[tuple[Token, ...]]) -> list[tuple[Token, ...]]:
    """Give `k` of `x = k\\pi, k \\in Z` the name of its set, whatever letter it is."""
    *formulas, last = pieces or [()]
    domain = _INTEGERS.fullmatch(spelled(last))
    if not formulas or domain is None:
        return pieces
    name, integers = domain.groups()
    return [
        tuple(t._replace(text=_SYMBOLS[integers]) if t.text == name else t for t in formula)
        for formula in formulas
    ]


def _lines(parts: Sequence[Token]) -> list[tuple[Token, ...]]:
    """Return the rows of a system; one that begins with a sign goes on from the one before."""
    lines: list[tuple[Token, ...]] = []
    for row in split(parts, r"\\"):
        starts = next((token.text for token in row if token.text != "&"), "")
        if lines and starts in _SIGNS:
            lines[-1] += row
        elif starts:
            lines.append(row)
    return lines


def _without_if(parts: tuple[Token, ...]) -> tuple[Token, ...]:
    """Drop the word before a condition and the comma behind a value."""
    parts = parts[1:] if parts[0].text in ("if", "If", "for", "when") else parts
    return parts[:-1] if parts[-1].text == "," else parts


def _without_title(parts: tuple[Token, ...]) -> tuple[Token, ...]:
    """Drop the name before a colon: `l: 5x-y+2=0`, `C: (-2,5)`, `\\text{Vertex: } (1,2)`."""
    title, *rest = split(parts, ":")
    if len(rest) != 1 or not title or not rest[0]:
        return parts
    if len(title) == 1 and re.fullmatch("[A-Za-z]", title[0].text):
        named = enclosed(rest[0]) or len(split(rest[0], "=")) > 1
    else:
        named = is_phrase(_text(title)) and name_of(title) is not None
    return rest[0] if named else parts


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
