"""Whether two expressions are equal: exactly where arithmetic decides, else at high precision.

Rational numbers are compared as fractions. Formulas are compared at random rational points, exactly
if only arithmetic occurs (a polynomial of degree d that is not zero vanishes at a random one of N
points with a chance of at most d / N: Schwartz, Zippel). For everything else the difference is
evaluated with so many digits that a difference of this size cannot be so small without being zero:
for radicals this is the root separation bound of Burnikel, Funke, Mehlhorn, Schirra and Schmitt
(2009); for pi, e and functions of them no such theorem is known, and the digits are four times
those between the largest and the smallest number that occurs, and 128 bits more. What wants more
than 16,384 bits is refused. The bound is relative to the size of the terms, never absolute.
"""

import functools
import itertools
import random
from collections.abc import Iterator
from fractions import Fraction

from vlm_rl.verification.arithmetic import Point, as_quotient
from vlm_rl.verification.arithmetic import at as at
from vlm_rl.verification.arithmetic import exact as exact
from vlm_rl.verification.digits import approximate as approximate
from vlm_rl.verification.digits import same_value
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import ONE, Node, number

_SIZES = (4, 4, 50, 50, 900)
"""How large the numbers put for names are, first all positive, for roots and logarithms."""
_MAX_SIGNED = 7
_ALL_SIGNED = 3
"""Points of other signs: of up to three names every pattern, of more some."""
_DENOMINATORS = (999983, 1000003, 1000033)
_MAX_QUOTIENTS = 8
"""With more nested fractions the numerator grows exponentially."""
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
    free = names(left)
    if names(right) != free:
        return False  # a name that one side lacks is not part of its value: `0 wrong` is not 0
    compared, alone, both = 0, False, False
    for point in _points(free, left, right):
        same = _same_at(point, left, right, numeric=numeric)
        if same is False:
            return False
        compared += same is True
        if same is None and not alone and numeric and min(point.values(), default=0) > 0:
            values = [approximate(at(side, point)) for side in (left, right)]
            alone = (values[0] is None) != (values[1] is None)
        elif same and min(point.values(), default=0) > 0:
            both = True
    if alone and not both:
        return False  # ln |x| is defined where ln (-x) is not
    if compared < (_MIN_REAL_POINTS if free else 1):
        raise NotComparable("has no value")
    return True


def proportional(left: Node, right: Node, *, numeric: bool, cleared: bool = True) -> int:
    """Return the sign of the constant c != 0 with left = c * right, 0 if there is none.

    With `cleared` only the numerators are compared, as in equations.
    """
    if not names(left) or names(left) != names(right):
        return 0
    if cleared:
        left, right = _numerator(left), _numerator(right)
    for point in _points(names(left), left, right):
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


def _numerator(node: Node) -> Node:
    """Return the numerator, and the expression itself where that may not be."""
    if sum(part.op == "/" for part in node.walk()) > _MAX_QUOTIENTS:
        return node
    top, bottom = _quotient(node)
    return node if not names(bottom) and exact(bottom) == 0 else top


def _quotient(node: Node) -> tuple[Node, Node]:
    """Return numerator and denominator, without fractions in them."""
    if node.op == "number":
        return number(node.args[0].numerator), number(node.args[0].denominator)
    if node.op == "negative":
        node = Node("*", (number(-1), *node.args))
    if node.op not in ("+", "*", "/"):
        return node, ONE
    parts = [_quotient(part) for part in node.args]
    return as_quotient(node.op, parts, lambda a, b: Node("+", (a, b)), _times)


def _times(a: Node, b: Node) -> Node:
    return b if a == ONE else a if b == ONE else Node("*", (a, b))


def _same_cells(left: Node, right: Node, *, numeric: bool) -> bool:
    return [len(row) for row in left.args] == [len(row) for row in right.args] and all(
        equal(a, b, numeric=numeric)
        for rows in zip(left.args, right.args, strict=True)
        for a, b in zip(*rows, strict=True)
    )


def _points(free: frozenset[str], *sides: Node) -> Iterator[Point]:
    """Yield points to compare at, the same in every run; one without names if there are none.

    They depend on what is compared, so that no formula can be made to vanish at its own points.
    Factorials and the like are compared at integers.
    """
    draw = random.Random(" ".join(sorted(map(str, sides))))
    ops = {part.op for side in sides for part in side.walk()}
    if free and ops & {"!", "binomial", "floor", "ceil"}:
        for integer in range(1, 41):
            few = len(free) == 1
            yield {name: Fraction(integer if few else draw.randint(1, 12)) for name in sorted(free)}
        if ops & {"!", "binomial"}:
            return
    if not free:
        yield {}
        return
    signed = itertools.islice(itertools.cycle(_sign_patterns(len(free), draw)), _MAX_SIGNED)
    positive = [(1,) * len(free)] * len(_SIZES)
    for size, pattern in zip(itertools.cycle(_SIZES), [*positive, *signed], strict=False):
        point = {}
        for name, sign in zip(sorted(free), pattern, strict=True):
            bottom = draw.choice(_DENOMINATORS)
            point[name] = Fraction(sign * draw.randint(1, size * bottom), bottom)
        yield point


def _sign_patterns(count: int, draw: random.Random) -> list[tuple[int, ...]]:
    """Return signs for so many names, not all positive: sqrt(x^2) is x only where x > 0."""
    if count <= _ALL_SIGNED:
        return [*itertools.product((-1, 1), repeat=count)][:-1]
    drawn = [tuple(draw.choice((-1, 1)) for _ in range(count)) for _ in range(_MAX_SIGNED - 1)]
    return [(-1,) * count, *drawn]


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
