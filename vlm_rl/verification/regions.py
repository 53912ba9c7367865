"""Sets of real numbers: unions of intervals, from brackets and from solved inequalities."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from vlm_rl.verification import algebra
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import Node

_INFINITY = Node("constant", ("infinity",))
_NO_NAME = "name"


class RealInterval(NamedTuple):
    """An interval by its ends; None is an infinite one."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


class Region(NamedTuple):
    """A union of intervals; `name` is the variable, if one was written. Parts joined with `or` are
    `offered`: they must be those of the gold, since `[1,2] or (1,2)` gives two answers."""

    parts: tuple[RealInterval, ...]
    name: str | None = None
    offered: bool = False

    def within(self, other: "Region") -> "Region":
        """Return the intersection."""
        parts = [_meet(a, b) for a in self.parts for b in other.parts]
        return Region(tuple(part for part in parts if part), _common_name(self, other))

    def without(self, other: "Region") -> "Region":
        """Return what is not in the other."""
        rest = self
        for part in other.parts:
            outside = []
            if part.low is not None:
                outside.append(RealInterval(None, False, part.low, not part.low_closed))
            if part.high is not None:
                outside.append(RealInterval(part.high, not part.high_closed, None, False))
            rest = rest.within(Region(tuple(outside)))
        return rest

    def merged(self) -> "Region":
        """Return the same set with its parts in order, none of which touch."""
        merged: list[RealInterval] = []
        for part in sorted(self.parts, key=_low_key):
            before = merged[-1] if merged else None
            if before is None or not _touch(before, part):
                merged.append(part)
            elif _high_key(part) > _high_key(before):
                merged[-1] = RealInterval(
                    before.low, before.low_closed, part.high, part.high_closed
                )
        return Region(tuple(merged), self.name)


REALS = Region((RealInterval(None, False, None, False),))
EMPTY = Region(())


def union(regions: Sequence[Region]) -> Region:
    """Return the union of sets, of one variable."""
    joined = regions[0]
    for region in regions[1:]:
        joined = Region((*joined.parts, *region.parts), _common_name(joined, region))
    return joined


def interval(opening: str, ends: Sequence[Any], closing: str) -> Region:
    """Return the interval between two ends in brackets. Raises Unparsable for other ends."""
    if len(ends) != 2 or not all(hasattr(end, "tree") for end in ends):
        raise Unparsable("not a set of numbers")
    low, high = (None if _infinite(end) else end for end in ends)
    if (_infinite(ends[0]) or -1) > 0 or (_infinite(ends[1]) or 1) < 0:
        raise Unparsable("not a set of numbers")
    return Region(
        (
            RealInterval(
                low, opening == "[" and low is not None, high, closing == "]" and high is not None
            ),
        )
    )


def solved(signs: tuple[str, ...], sides: Sequence[Any]) -> Region | None:
    """Read `1 < x \\le 2`, `2 \\ge x > 1`, `x > 1`, `x \\ne 2`, whose only name is the variable.

    None for any other relation.
    """
    named = [side.tree.op == "name" for side in sides]
    if sum(named) != 1 or len(sides) > 3 or (len(sides) == 3 and not named[1]):
        return None
    name = sides[named.index(True)].tree.args[0]
    if any(name in algebra.names(side.tree) for side in sides if side.tree.op != "name"):
        return None
    if signs == ("!=",):
        (point,) = (side for side in sides if side.tree.op != "name")
        holes = [point._replace(tree=tree) for tree in algebra.signs(point.tree)]
        region = REALS
        for hole in holes:
            region = region.without(Region((RealInterval(hole, True, hole, True),)))
        return region._replace(name=name)
    if not set(signs) <= {"<", "<="} and not set(signs) <= {">", ">="}:
        return None
    if signs[0][0] == ">":
        signs, sides, named = signs[::-1], sides[::-1], named[::-1]
    closed = [sign.endswith("=") for sign in signs]
    if len(sides) == 3:
        part = RealInterval(sides[0], closed[0], sides[2], closed[1])
    elif named[0]:
        part = RealInterval(None, False, sides[1], closed[0])
    else:
        part = RealInterval(sides[0], closed[0], None, False)
    low, high = (
        None if end is not None and _infinite(end) else end for end in (part.low, part.high)
    )
    return Region(
        (
            RealInterval(
                low,
                part.low_closed and low is not None,
                high,
                part.high_closed and high is not None,
            ),
        ),
        name,
    )


def _infinite(end: Any) -> int:
    """Return the sign of an infinite end, 0 for a finite one."""
    if end.tree == _INFINITY:
        return 1
    return -1 if end.tree == Node("negative", (_INFINITY,)) else 0


def _common_name(left: Region, right: Region) -> str | None:
    if left.name and right.name and left.name != right.name:
        raise Unparsable("conditions on two names")
    return left.name or right.name


def _meet(a: RealInterval, b: RealInterval) -> RealInterval | None:
    low, low_closed = max(((p.low, p.low_closed) for p in (a, b)), key=_bound_of_low)
    high, high_closed = min(((p.high, p.high_closed) for p in (a, b)), key=_bound_of_high)
    part = RealInterval(low, low_closed, high, high_closed)
    if low is None or high is None:
        return part
    ends = _number(low), _number(high)
    empty = ends[0] > ends[1] or (ends[0] == ends[1] and not (low_closed and high_closed))
    return None if empty else part


def _number(end: Any) -> Fraction:
    value = algebra.exact(end.tree)
    if value is None:
        value = algebra.approximate(end.tree)
    if value is None:
        raise Unparsable("an end that is not a number")
    return value


def _bound_of_low(bound: tuple[Any, bool]) -> tuple[bool, Fraction, bool]:
    end, closed = bound
    return (end is not None, Fraction(0) if end is None else _number(end), not closed)


def _bound_of_high(bound: tuple[Any, bool]) -> tuple[bool, Fraction, bool]:
    end, closed = bound
    return (end is None, Fraction(0) if end is None else _number(end), closed)


def _low_key(part: RealInterval) -> tuple[bool, Fraction, bool]:
    return _bound_of_low((part.low, part.low_closed))


def _high_key(part: RealInterval) -> tuple[bool, Fraction, bool]:
    return _bound_of_high((part.high, part.high_closed))


def _touch(before: RealInterval, behind: RealInterval) -> bool:
    if before.high is None or behind.low is None:
        return True
    ends = _number(before.high), _number(behind.low)
    return ends[1] < ends[0] or (ends[0] == ends[1] and (before.high_closed or behind.low_closed))
