"""Whether two expressions are equal: exactly where arithmetic decides, else at high precision.

Rational numbers are compared as fractions. Formulas are compared at random rational points, exactly
if only arithmetic occurs (a polynomial of degree d that is not zero vanishes at a random one of N
points with a chance of at most d / N: Schwartz, Zippel). For everything else the difference is
evaluated with so many digits that a difference of this size cannot be so small without being zero:
for radicals this is the root separation bound of Burnikel, Funke, Mehlhorn, Schirra and Schmitt
(2009); for pi, e and functions of them no such theorem is known, and the digits are four times
those between the largest and the smallest number that occurs, and 128 bits more. The bound is
relative to the size of the terms, never absolute.
"""

import functools
import random
from collections.abc import Iterator
from fractions import Fraction

from vlm_rl.verification.arithmetic import Point, as_quotient, at
from vlm_rl.verification.arithmetic import exact as exact
from vlm_rl.verification.digits import approximate as approximate
from vlm_rl.verification.digits import same_value
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import ONE, Node, number

_LOWEST = (1, 1, 1, -4000, -4000, -4000, -4000, -4000)
"""Points for roots and logarithms first, then for all signs."""
_MIN_REAL_POINTS = 2
_I = Node("constant", ("i",))


class NeedsAlgebra(Exception):
    """Exact arithmetic cannot decide the question: ask a checking process."""


class NotComparable(Unparsable):
    """Two expressions that have a value in common nowhere."""


def equal(left: Node, right: Node, *, numeric: bool) -> bool:
    """Return whether two expressions are equal for all values of their names.

    Raises NeedsAlgebra if that takes more than exact arithmetic and `numeric` is false; Unparsable
    for numbers that are too large, and where neither has a value.
    """
    if left == right:
        return True
    if "matrix" in (left.op, right.op):
        return left.op == right.op and _same_cells(left, right, numeric=numeric)
    free = names(left) | names(right)
    compared = 0
    for point in _points(free):
        same = _same_at(point, left, right, numeric=numeric)
        if same is False:
            return False
        compared += same is True
    if compared < (_MIN_REAL_POINTS if free else 1):
        raise NotComparable("has no value")
    return True


def proportional(left: Node, right: Node, *, numeric: bool) -> int:
    """Return the sign of the constant c != 0 with left = c * right, 0 if there is none."""
    left, right = _quotient(left)[0], _quotient(right)[0]
    for point in _points(names(left) | names(right)):
        fixed = [at(side, point) for side in (left, right)]
        values = [value(side, numeric=numeric) for side in fixed]
        if None in values or 0 in values:
            continue
        if None not in (exact(side) for side in fixed):
            fixed = [number(v) for v in values if v is not None]
        crossed = [_times(left, fixed[1]), _times(right, fixed[0])]
        a, b = (-1 if v is not None and v < 0 else 1 for v in values)
        return a * b * equal(*crossed, numeric=numeric)
    return 0


def value(node: Node, *, numeric: bool) -> Fraction | None:
    """Return the value of a real number, exact or to 30 digits, None for everything else.

    Raises NeedsAlgebra if it is not rational and `numeric` is false.
    """
    rational = exact(node)
    if rational is None and not numeric:
        raise NeedsAlgebra
    return approximate(node) if rational is None else rational


@functools.lru_cache(maxsize=4096)
def names(node: Node) -> frozenset[str]:
    """Return the free names of an expression."""
    return frozenset(part.args[0] for part in node.walk() if part.op == "name")


def signs(node: Node) -> list[Node]:
    """Return the expressions that one with ± stands for: both signs, everywhere the same."""
    if all(part.op not in ("±", "∓") for part in node.walk()):
        return [node]
    return [_signed(node, opposite) for opposite in ("∓", "±")]


def _signed(node: Node, opposite: str) -> Node:
    inner = node.rebuilt(lambda part: _signed(part, opposite))
    if node.op not in ("±", "∓"):
        return inner
    return Node("negative", inner.args) if node.op == opposite else inner.args[0]


def _quotient(node: Node) -> tuple[Node, Node]:
    """Return numerator and denominator, without fractions in them."""
    if node.op == "number":
        return number(node.args[0].numerator), number(node.args[0].denominator)
    if node.op == "negative":
        node = Node("*", (number(-1), *node.args))
    if node.op not in ("+", "*", "/"):
        return node, ONE
    return as_quotient(node.op, [_quotient(part) for part in node.args], _plus, _times)


def _plus(a: Node, b: Node) -> Node:
    return Node("+", (a, b))


def _times(a: Node, b: Node) -> Node:
    return b if a == ONE else a if b == ONE else Node("*", (a, b))


def _same_cells(left: Node, right: Node, *, numeric: bool) -> bool:
    return [len(row) for row in left.args] == [len(row) for row in right.args] and all(
        equal(a, b, numeric=numeric)
        for rows in zip(left.args, right.args, strict=True)
        for a, b in zip(*rows, strict=True)
    )


def _points(free: frozenset[str]) -> Iterator[Point]:
    """Yield points to compare at, the same in every run; one without names if there are none."""
    draw = random.Random("".join(sorted(free)))
    for low in _LOWEST if free else (1,):
        yield {
            name: Fraction(draw.randint(low, 4000) or 1, draw.choice((997, 1009, 1013)))
            for name in sorted(free)
        }


def _same_at(point: Point, left: Node, right: Node, *, numeric: bool) -> bool | None:
    """Return whether two expressions agree at a point, None if one has no real value there."""
    sides = at(left, point), at(right, point)
    values = [exact(side) for side in sides]
    if None not in values:
        return values[0] == values[1]
    if not numeric:
        raise NeedsAlgebra
    real = bool(point) and _I not in {*left.walk(), *right.walk()}
    return same_value(*sides, real=real)
