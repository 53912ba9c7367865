"""Read an answer: tokens to a typed value. What is left over makes the whole text unreadable.

From the loosest bond to the tightest: a list, a union of sets, a relation, a ratio, a quantity. The
forms of a text decide what it is; what it should be is for `equality`, which knows the gold.
"""

import functools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from vlm_rl.verification import algebra
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import FUNCTIONS, Node, number, parse
from vlm_rl.verification.notation import (
    Token,
    enclosed,
    normalise,
    plain_text,
    spelled,
    split,
    tokens,
)
from vlm_rl.verification.regions import EMPTY, REALS, RealInterval, Region, interval, solved, union
from vlm_rl.verification.spoken import FRACTION_WORDS, MULTIPLIERS, spoken_number
from vlm_rl.verification.units import CURRENCIES, Unit, split_unit, unit_of
from vlm_rl.verification.words import is_phrase, negates, without_label


class Quantity(NamedTuple):
    """A number or an expression, with the unit it was given, and whether a fraction was written."""

    tree: Node
    unit: Unit | None = None


class Chain(NamedTuple):
    """`x = 2 + 3 = 5`: what is claimed to be equal, and the name that comes first, if it is one."""

    name: str | None
    left: "Value | None"
    sides: tuple["Value", ...]


class Relation(NamedTuple):
    """Sides and the signs between them, such as `c > a > b`."""

    signs: tuple[str, ...]
    sides: tuple[Quantity, ...]


class Collection(NamedTuple):
    """Values with a bracket around them: `(`, `[`, `{`, or none."""

    bracket: str
    items: tuple["Value", ...]


class Proportion(NamedTuple):
    """The parts of `3:4:5`."""

    parts: tuple[Quantity, ...]


class Words(NamedTuple):
    """Text, by its one spelling."""

    text: str


Value = Quantity | Chain | Relation | Collection | Proportion | Words | Region

_SIGNS = {
    **{"=": "=", r"\equiv": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!="},
    **{r"\parallel": "parallel", r"\perp": "perpendicular", r"\bot": "perpendicular"},
    **{r"\sim": "similar", r"\cong": "congruent"},
    **{r"\approx": "~", r"\in": "in", "is": "=", "等于": "="},
}
_SEPARATORS = (",", ";", "、", "or", "and", "或", "或者", "和", "与", "且", "以及", "&")
_REAL_WORDS = frozenset(
    (
        *("all real numbers", "all reals", "real numbers", "the set of all real numbers", "r"),
        *("全体实数", "所有实数", "任意实数", "一切实数", "any real number", r"\mathbb{r}"),
    )
)
_EMPTY_WORDS = frozenset(
    (
        *("no solution", "no solutions", "empty set", "the empty set", "无解", "空集"),
        *("no real solution", "no real solutions", r"\emptyset"),
    )
)
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
    special = _special_set(text)
    if special is not None:
        return special
    spoken = spoken_number(text)
    if spoken is not None:
        return Quantity(number(spoken))
    return _Reader(lenient).value(tokens(text))


def _special_set(text: str) -> Region | None:
    written = plain_text(text)
    if written in _REAL_WORDS and written != "r":
        return REALS
    return EMPTY if written in _EMPTY_WORDS else None


class _Reader:
    def __init__(self, lenient: bool) -> None:
        self._lenient = lenient

    def value(self, parts: Sequence[Token]) -> Value:
        """Read any value."""
        parts = _unwrapped(parts)
        if not parts:
            raise Unparsable("empty answer")
        if spelled(parts[:4]) == r"\begin{cases}":
            return self._cases(parts)
        last = split(parts, r"\Rightarrow", r"\to", r"\rightarrow")[-1]
        if len(last) < len(parts):
            return self.value(last)
        pieces = split(parts, *_SEPARATORS)
        if len(pieces) > 1:
            return self._list(parts, pieces)
        return self._one(parts)

    def _one(self, parts: tuple[Token, ...]) -> Value:
        sets = split(parts, r"\cup")
        if len(sets) > 1:
            return union([self._region(piece) for piece in sets])
        signs = [token.text for token in parts if token.text in _SIGNS]
        if signs:
            pieces = split(parts, *_SIGNS)
            if len(pieces) > 1:
                return self._related(parts, pieces)
        special = _special_set(" ".join(token.text for token in parts))
        if special is not None or spelled(parts) == r"\mathbb{R}":
            return special or REALS
        pieces = split(parts, ":", "to", "比")
        if len(pieces) > 1:
            ratio = Proportion(tuple(self.quantity(piece) for piece in pieces))
            if has_unit(ratio) and not self._lenient:
                return _Reader(lenient=True)._one(parts)
            return ratio
        minus = split(parts, r"\setminus")
        if len(minus) == 2:
            return self._region(minus[0]).without(self._region(minus[1]))
        return self._bracketed(parts) or _as_figure(self.quantity(parts))

    def _item(self, parts: tuple[Token, ...]) -> Value:
        """Read a member, which may be a word."""
        text = " ".join(token.text for token in parts).strip("'\" ")
        if is_phrase(text) and not any(token.kind == "number" for token in parts):
            return Words(plain_text(text))
        return self._one(_unwrapped(parts))

    def _region(self, parts: Sequence[Token]) -> Region:
        value = self._one(_unwrapped(parts))
        region = as_region(value)
        if region is None:
            raise Unparsable("not a set of numbers")
        return region

    def _list(self, parts: tuple[Token, ...], pieces: list[tuple[Token, ...]]) -> Value:
        words = {token.text for token in parts} & {"or", "或", "或者"}
        pieces = [piece for piece in pieces if piece]
        if len(pieces) == 1:
            return self._one(pieces[0])
        items = [self._item(piece) for piece in pieces]
        regions = [item for item in items if isinstance(item, Region)]
        if len(regions) == len(items) and len({r.name for r in regions if r.name}) < 2:
            if words:
                return union(regions)._replace(offered=True)
            return functools.reduce(lambda a, b: a.within(b), regions)
        quantities = [item for item in items if isinstance(item, Quantity)]
        together = _compound(quantities) if len(quantities) == len(items) else None
        return together or Collection("", tuple(items))

    def _cases(self, parts: tuple[Token, ...]) -> Value:
        inside = parts[4 : next(i for i, token in enumerate(parts) if token.text == r"\end")]
        rows = [row for row in split(inside, r"\\", ",", "&") if row]
        if spelled(parts[4 + len(inside) :]) != r"\end{cases}":
            raise Unparsable("words beside the answer")
        return Collection("", tuple(self._one(row) for row in rows))

    def _bracketed(self, parts: tuple[Token, ...]) -> Value | None:
        """Read `(1, 2]`, `\\{1, 2\\}`, `A(3,-4)`, `\\{x | x > 1\\}`; None if it is none of these."""
        while len(parts) > 1 and parts[0].text in ("point", "Point", "点"):
            parts = parts[1:]
        parts = _without_point_name(parts)
        opening = parts[0].text if parts else ""
        if opening not in ("(", "[", r"\{", r"\langle") or not enclosed(parts):
            return None
        inside, closing = _without_thousands(parts[1:-1]), parts[-1].text
        if opening == r"\{":
            builder = split(inside, "|", ":")
            if len(builder) == 2:
                return self._builder(*builder)
        pieces = split(inside, ",", ";")
        if len(pieces) == 1 and opening != r"\{" and not is_phrase(spelled(inside)):
            return None
        if opening == r"\{" and not inside:
            return EMPTY
        items = tuple(map(self._item, pieces))
        if (opening, closing) in (("(", "]"), ("[", ")")) or _has_infinity(items):
            return interval(opening, items, closing)
        if (opening, closing) not in (
            ("(", ")"),
            ("[", "]"),
            (r"\{", r"\}"),
            (r"\langle", r"\rangle"),
        ):
            raise Unparsable("brackets that do not match")
        return Collection({r"\{": "{", r"\langle": "("}.get(opening, opening), items)

    def _builder(self, member: tuple[Token, ...], condition: tuple[Token, ...]) -> Value:
        names = split(member, r"\in")
        domain = len(names) == 1 or spelled(names[1]) in (r"\mathbb{R}", "R")
        value = self.value(condition)
        region = as_region(value)
        if region is None or not domain or region.name not in (None, spelled(names[0])):
            raise Unparsable("not a set of numbers")
        return region._replace(name=None)

    def _related(self, parts: tuple[Token, ...], pieces: list[tuple[Token, ...]]) -> Value:
        signs = _top_signs(parts)
        if set(signs) <= {"=", "~"}:
            return self._chain(signs, pieces)
        if signs == ["in"]:
            name = _name_of(pieces[0])
            if name is None:
                raise Unparsable("words beside the answer")
            return self._region(pieces[1])._replace(name=name)
        sides = tuple(self.quantity(piece) for piece in pieces)
        return solved(tuple(signs), sides) or Relation(tuple(signs), sides)

    def _chain(self, signs: list[str], pieces: list[tuple[Token, ...]]) -> Value:
        if not pieces[0]:
            signs, pieces = signs[1:], pieces[1:]  # `= 5`, `≈ 5`
        if not all(pieces):
            raise Unparsable("an empty side")
        if len(pieces) == 1:
            return self.value(pieces[0])
        name = _name_of(pieces[0])
        if name is None and len(pieces) == 2 and (name := _name_of(pieces[1])):
            pieces.reverse()
        values = [self._side(piece) for piece in pieces[1:]]
        left = self._left(pieces[0], required=name is None)
        claims = values if name is not None else [left, *values]
        for index, sign in reversed(list(enumerate(signs, start=(name is not None and 0) or 0))):
            at = index if name is not None else index + 1
            if sign == "~" and at >= 1 and at < len(claims):
                _check_rounding(claims[at - 1], claims.pop(at))
        if name is None and len(claims) == 1:
            return claims[0]
        return Chain(name, left if name is not None else None, tuple(claims))

    def _side(self, piece: tuple[Token, ...]) -> Value:
        return self._one(_unwrapped(piece))

    def _left(self, piece: tuple[Token, ...], *, required: bool) -> Value | None:
        try:
            return self._side(piece)
        except Unparsable:
            if required:
                raise
            return None

    def quantity(self, parts: Sequence[Token]) -> Quantity:
        """Read an expression with its unit, multipliers and currency."""
        parts = _unwrapped(_with_split_chinese(parts))
        if not parts:
            raise Unparsable("not read as mathematics")
        currency = parts[0].text if parts[0].text in CURRENCIES else None
        if currency is not None:
            parts = _with_thousand(parts[1:])
        value, unit = split_unit(parts, lenient=self._lenient)
        value, factor = _multiplied(value)
        if currency is not None:
            unit = unit or unit_of(currency)
        spoken = spoken_number(" ".join(token.text for token in value)) if unit else None
        try:
            tree = parse(value) if spoken is None else number(spoken)
        except Unparsable:
            together = self._compound(parts)
            if together is not None:
                return together
            if unit is None:
                raise
            return Quantity(parse(parts))
        if factor != 1:
            tree = Node("*", (tree, number(factor)))
        return Quantity(tree, unit)

    def _compound(self, parts: Sequence[Token]) -> Quantity | None:
        """Read `5 feet 7 inches`, `30°15'`, `2小时30分`."""
        starts = [
            index
            for index, token in enumerate(parts)
            if token.kind == "number"
            and (index == 0 or parts[index - 1].text not in ("^", "{", "-", "/", "_", "}"))
        ]
        if len(starts) < 2 or starts[0] != 0:
            return None
        ends = [*starts[1:], len(parts)]
        quantities = []
        for start, end in zip(starts, ends, strict=True):
            piece = [token for token in parts[start:end] if token.text not in ("and", ",")]
            angle = bool(quantities) and quantities[0].unit == unit_of("度")
            value, unit = split_unit(_in_context(piece, angle=angle), lenient=True)
            if len(value) != 1 or unit is None:
                return None
            quantities.append(Quantity(parse(value), unit))
        return _compound(quantities)


def _as_figure(quantity: Quantity) -> Quantity:
    """Read the corners of a triangle alone in any order; beside another they correspond."""
    tree = quantity.tree
    if tree.op == "name" and tree.args[0].startswith("triangle "):
        return Quantity(Node("name", ("".join(sorted(tree.args[0])),)))
    return quantity


def has_unit(value: Value) -> bool:
    """Return whether a value surely has a unit, so that letters beside it are units, too."""
    if isinstance(value, Proportion):
        return any(map(has_unit, value.parts))
    return isinstance(value, Quantity) and value.unit is not None and value.unit.sure


def plain_number(text: str) -> Fraction | None:
    """Return the exact value of a number without a unit, None for any other text."""
    try:
        value = read(text)
        plain = isinstance(value, Quantity) and value.unit is None
        return algebra.exact(value.tree) if plain else None
    except Unparsable:
        return None


def cut_unit(text: str) -> tuple[str, str]:
    """Return the text of a number and that of its unit, empty if it has none."""
    parts = tokens(normalise(text))
    value, unit = split_unit(parts, lenient=False)
    behind = _joined(parts[len(value) :])
    upright = any(token.upright for token in parts[len(value) :])
    return _joined(value), rf"\text{{ {behind}}}" if upright and unit else behind


def _joined(parts: Sequence[Token]) -> str:
    return "".join(f" {token.text}" if token.spaced else token.text for token in parts).strip()


def as_region(value: Value) -> Region | None:
    """Return a set of real numbers: what an interval, an inequality or two ends can be read as."""
    if isinstance(value, Region):
        return value
    if isinstance(value, Chain) and len(value.sides) == 1 and value.name is not None:
        region = as_region(value.sides[0])
        return None if region is None else region._replace(name=value.name)
    if isinstance(value, Collection) and value.bracket == "{":
        points = [item for item in value.items if isinstance(item, Quantity)]
        return (
            Region(tuple(RealInterval(p, True, p, True) for p in points))
            if len(points) == len(value.items)
            else None
        )
    if isinstance(value, Collection) and value.bracket in ("(", "[") and len(value.items) == 2:
        return interval(value.bracket, value.items, {"(": ")", "[": "]"}[value.bracket])
    return None


def _compound(quantities: list[Quantity]) -> Quantity | None:
    """Add parts of one quantity, each in a smaller unit than the one before."""
    units = [quantity.unit for quantity in quantities]
    if None in units or len({unit.powers for unit in units}) != 1:
        return None
    factors = [unit.factor for unit in units]
    values = [algebra.exact(quantity.tree) for quantity in quantities]
    falling = all(a > b for a, b in zip(factors, factors[1:], strict=False))
    if not falling or None in values or min(values) < 0:
        return None
    total = sum(value * factor for value, factor in zip(values, factors, strict=True))
    return Quantity(number(total / factors[0]), units[0])


def _in_context(parts: list[Token], *, angle: bool) -> list[Token]:
    """Read `分` and `秒` behind degrees, or hours, as the parts of these, not as points."""
    words = {"分": "'", "秒": "''"} if angle else {"分": "分钟"}
    return [token._replace(text=words.get(token.text, token.text)) for token in parts]


def _check_rounding(exact: Value, rounded: Value) -> None:
    """Raise Unparsable if `rounded` is no rounding of `exact`, as in `3 \\approx 4`."""
    if not (isinstance(exact, Quantity) and isinstance(rounded, Quantity)):
        raise Unparsable("no approximation of it")
    digits = rounded.tree.args[1] if rounded.tree.op == "number" else None
    value, near = algebra.exact(exact.tree), algebra.exact(rounded.tree)
    if value is None:
        value = algebra.approximate(exact.tree)
    if near is None or value is None:
        raise Unparsable("no approximation of it")
    places = max(0, len(str(near.denominator)) - 1) if digits else 0
    if abs(value - near) >= Fraction(1, 10**places):
        raise Unparsable("no approximation of it")


def _unwrapped(parts: Sequence[Token]) -> tuple[Token, ...]:
    """Drop braces around everything, and an equals sign before it."""
    parts = tuple(parts)
    while parts and (parts[0].text == "{" and enclosed(parts)):
        parts = parts[1:-1]
    return parts


def _top_signs(parts: Sequence[Token]) -> list[str]:
    depth, signs = 0, []
    for token in parts:
        depth += (token.text in ("(", "[", "{", r"\{")) - (token.text in (")", "]", "}", r"\}"))
        if depth == 0 and token.text in _SIGNS:
            signs.append(_SIGNS[token.text])
    return signs


def _without_thousands(parts: Sequence[Token]) -> list[Token]:
    """Read the comma of `(1,200)` as one between members."""
    found: list[Token] = []
    for token in parts:
        if token.kind == "number" and "," in token.text:
            for piece in token.text.split(","):
                found += [Token("number", piece, False, False), Token("mark", ",", False, False)]
            found.pop()
        else:
            found.append(token)
    return found


def _with_split_chinese(parts: Sequence[Token]) -> list[Token]:
    """Cut multipliers off the words behind them: `万元` is `万` and `元`."""
    found: list[Token] = []
    for token in parts:
        multiplier = re.match("[十百千万亿]+", token.text) if token.kind == "chinese" else None
        if multiplier and unit_of(token.text) is None:
            found += [token._replace(text=character) for character in multiplier[0]]
            token = token._replace(text=token.text[multiplier.end() :])
        if token.text:
            found.append(token)
    return found


def _with_thousand(parts: Sequence[Token]) -> tuple[Token, ...]:
    """Read the k of `$5k`."""
    if len(parts) == 2 and parts[1].text in ("k", "K"):
        return parts[0], parts[1]._replace(text="thousand")
    return tuple(parts)


def _multiplied(parts: Sequence[Token]) -> tuple[tuple[Token, ...], Fraction]:
    """Take multipliers and fraction words off the end: `1.2 million`, `3 tenths`."""
    parts, factor = tuple(parts), Fraction(1)
    while len(parts) > 1:
        word = parts[-1].text
        if word in MULTIPLIERS and parts[-1].kind in ("letters", "chinese"):
            factor *= MULTIPLIERS[word]
        elif word in FRACTION_WORDS and factor == 1:
            factor = FRACTION_WORDS[word]
        else:
            break
        parts = parts[:-1]
    return parts, factor


def _has_infinity(items: Sequence[Value]) -> bool:
    return any(
        isinstance(item, Quantity) and item.tree in (_INFINITY, Node("negative", (_INFINITY,)))
        for item in items
    )


_INFINITY = Node("constant", ("infinity",))


def _without_point_name(parts: tuple[Token, ...]) -> tuple[Token, ...]:
    """Drop a capital right before a bracket: `A(3,-4)`, `A'(3,-4)`, `P_1(3,-4)`."""
    start = next((index for index, token in enumerate(parts) if token.text == "("), 0)
    named = re.fullmatch(r"[A-Z](?:'|_\{?\w\}?)*", spelled(parts[:start]))
    return parts[start:] if named and enclosed(parts[start:]) else parts


_NAME_COMMANDS = frozenset(
    (
        *(
            r"\angle",
            r"\triangle",
            r"\overline",
            r"\vec",
            r"\frac",
            r"\odot",
            r"\widehat",
            r"\square",
        ),
        *(
            r"\cap",
            r"\cup",
            r"\overrightarrow",
            r"\hat",
            r"\bar",
            r"\cdot",
            r"\measuredangle",
            r"\Delta",
        ),
    )
)


def _name_of(parts: Sequence[Token]) -> str | None:
    """Return the spelling of what names a value: `x`, `AB`, `f(2)`, `\\angle 1`, `a+b`, `Area`.

    None for what has a value of its own, or more than one: `2x`, `x^2`, `-x`, `\\sqrt{x}`, `|x|`.
    """
    text = spelled(parts)
    if not parts or negates(" ".join(token.text for token in parts)):
        return None
    if re.fullmatch(r"\|(?:\\(?:vec|overrightarrow|overline)\{\w+\}|[A-Z]'?[A-Z]'?)\|", text):
        return text
    if parts[0].text in ("+", "-") or not any(
        token.kind in ("letters", "chinese", "command") for token in parts
    ):
        return None
    depth = 0
    for index, token in enumerate(parts):
        before = parts[index - 1].text if index else ""
        if token.text in ("{", "("):
            depth += depth > 0 or (
                before in ("_",) or (token.text == "(" and _callable(parts, index))
            )
        elif token.text in ("}", ")"):
            depth -= depth > 0
        elif token.kind == "number":
            if not depth and before not in ("_", r"\angle"):
                return None
        elif token.kind == "command" and not depth:
            if token.text not in _NAME_COMMANDS and not _is_letter_command(token.text):
                return None
        elif token.kind == "mark" and token.text not in "_'+-*/,.:" and not depth:
            return None
    return text


def _callable(parts: Sequence[Token], index: int) -> bool:
    return index > 0 and parts[index - 1].kind in ("letters", "command", "mark")


def _is_letter_command(command: str) -> bool:
    return command[1:] in FUNCTIONS or (
        command[1:].isalpha() and command[1:].lower() in _GREEK_NAMES
    )


_GREEK_NAMES = frozenset(
    (
        *("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "nu", "rho"),
        *("sigma", "tau", "phi", "psi", "omega", "eta", "xi", "zeta", "kappa", "chi", "ell"),
    )
)
