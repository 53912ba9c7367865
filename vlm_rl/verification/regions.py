"""Sets of real numbers: unions of intervals, from brackets and from solved inequalities."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from vlm_rl.verification import algebra
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import Node, number
from vlm_rl.verification.quantities import Quantity, are_quantities

Boundary = tuple[int, Fraction, bool]
"""A place on the real line beside a number: the sign of an infinite one, the number, and whether
the cut is behind it. An interval goes from one cut to a later one; intervals at one cut touch."""


class RealInterval(NamedTuple):
    """An interval by its ends; None is an infinite one."""

    low: Quantity | None
    low_closed: bool
    high: Quantity | None
    high_closed: bool

    def start(self) -> Boundary:
        """Return the cut before a closed end or behind an open one."""
        return (-1, Fraction(0), False) if self.low is None else _cut(self.low, not self.low_closed)

    def stop(self) -> Boundary:
        """Return the cut behind a closed end or before an open one."""
        return (1, Fraction(0), False) if self.high is None else _cut(self.high, self.high_closed)

    def until(self, other: "RealInterval") -> "RealInterval":
        """Return the interval from the start of this one to the stop of the other."""
        return self._replace(high=other.high, high_closed=other.high_closed)


class Region(NamedTuple):
    """A union of intervals; `name` is the variable, if one was written. Parts joined with `or` are
    `offered`: they must be those of the gold, since `[1,2] or (1,2)` gives two answers. A solved
    inequality is a `condition`, which others may join."""

    parts: tuple[RealInterval, ...]
    name: str | None = None
    offered: bool = False
    condition: bool = False

    def within(self, other: "Region") -> "Region":
        """Return the intersection."""
        met = [
            max(pair, key=RealInterval.start).until(min(pair, key=RealInterval.stop))
            for pair in itertools.product(self.parts, other.parts)
        ]
        parts = tuple(part for part in met if part.start() < part.stop())
        return Region(parts, _common_name((self, other)))

    def without(self, other: "Region") -> "Region":
        """Return what is not in the other."""
        rest = self
        for low, low_closed, high, high_closed in other.parts:
            below = [RealInterval(None, False, low, not low_closed)] if low else []
            above = [RealInterval(high, not high_closed, None, False)] if high else []
            rest = rest.within(Region((*below, *above)))
        return rest

    def merged(self) -> "Region":
        """Return the same set with its parts in order, none of which touch."""
        merged: list[RealInterval] = []
        for part in sorted(self.parts, key=RealInterval.start):
            first = merged.pop() if merged and part.start() <= merged[-1].stop() else part
            merged.append(first.until(max(first, part, key=RealInterval.stop)))
        return Region(tuple(merged), self.name)


REALS = Region((RealInterval(None, False, None, False),))
EMPTY = Region(())


def union(regions: Sequence[Region]) -> Region:
    """Return the union of sets, of one variable."""
    parts = tuple(part for region in regions for part in region.parts)
    return Region(parts, _common_name(regions))


def points(ends: Sequence[Quantity]) -> Region:
    """Return the set of some numbers."""
    return Region(tuple(RealInterval(end, True, end, True) for end in ends))


def interval(opening: str, ends: Sequence[object], closing: str) -> Region:
    """Return the interval between two ends in brackets. Raises Unparsable for other ends."""
    if len(ends) != 2 or not are_quantities(ends):
        raise Unparsable("not a set of numbers")
    if ends[0].infinite == 1 or ends[1].infinite == -1:
        raise Unparsable("not a set of numbers")
    low, high = _end(ends[0], opening == "["), _end(ends[1], closing == "]")
    return Region((RealInterval(*low, *high),))


def solved(signs: Sequence[str], sides: Sequence[Quantity]) -> Region | None:
    """Read `1 < x \\le 2`, `2 \\ge x > 1`, `x > 1`, `x \\ne 2`, whose only name is the variable.

    None for any other relation.
    """
    if len(sides) == 2 and (turned := _linear(signs[0], *sides)):
        signs, sides = turned
    variables = [side for side in sides if side.tree.op == "name"]
    ends = [side for side in sides if side.tree.op != "name"]
    name = variables[0].tree.args[0] if len(variables) == 1 else None
    if name is None or any(name in algebra.names(end.tree) for end in ends):
        return None
    if list(signs) == ["!="]:
        holes = [ends[0]._replace(tree=tree) for tree in algebra.signs(ends[0].tree)]
        return REALS.without(points(holes))._replace(name=name, condition=True)
    if set(signs) <= {">", ">="}:
        signs, sides = signs[::-1], sides[::-1]
    elif not set(signs) <= {"<", "<="}:
        return None
    at, closed = sides.index(variables[0]), [sign in ("<=", ">=") for sign in signs]
    lows = [*map(_end, sides[:at], closed[:at])] or [(None, False)]
    highs = [*map(_end, sides[at + 1 :], closed[at:])] or [(None, False)]
    if len(lows) + len(highs) > 2:
        return None
    return Region((RealInterval(*lows[0], *highs[0]),), name, condition=True)


def _linear(
    sign: str, left: Quantity, right: Quantity
) -> tuple[list[str], tuple[Quantity, ...]] | None:
    """Solve `2x + 3 > 7`, and turn `|x| < 2` into `-2 < x < 2`; None for all else."""
    name, *others = algebra.names(left.tree) | algebra.names(right.tree) or ("",)
    if others or not name or left.unit or right.unit:
        return None
    if left.tree == Node("absolute", (Node("name", (name,)),)) and sign[0] == "<":
        negative = right._replace(tree=Node("negative", (right.tree,)))
        return [sign, sign], (negative, Quantity(left.tree.args[0]), right)
    values = [
        [algebra.exact(algebra.at(side.tree, {name: Fraction(x)})) for x in range(3)]
        for side in (left, right)
    ]
    if any(None in row for row in values):
        return None
    at0, at1, at2 = (a - b for a, b in zip(*values, strict=True) if a is not None and b is not None)
    slope = at1 - at0
    if at2 - at1 != slope or slope == 0 or left.tree.op == "name" or right.tree.op == "name":
        return None
    turned = {"<": ">", ">": "<"}.get(sign[0], sign[0]) + sign[1:] if slope < 0 else sign
    return [turned], (Quantity(Node("name", (name,))), Quantity(number(-at0 / slope)))


def _end(quantity: Quantity, closed: bool) -> tuple[Quantity | None, bool]:
    return (None if quantity.infinite else quantity, closed)


def _cut(end: Quantity, behind: bool) -> Boundary:
    if end.size is None:
        raise Unparsable("an end that is not a number")
    return 0, end.size, behind


def _common_name(regions: Sequence[Region]) -> str | None:
    names = {region.name for region in regions if region.name}
    if len(names) > 1:
        raise Unparsable("conditions on two names")
    return next(iter(names), None)
