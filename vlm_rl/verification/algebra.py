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
import math
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import ONE, Node, number

_MAX_BITS = 1 << 17
"""Larger numbers are refused: no answer has 40,000 digits."""
_MAX_PRECISION = 1 << 14
_ROUGH_BITS = 20
_POINTS = 5
_MIN_REAL_POINTS = 2
Point = Mapping[str, Fraction]


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
    difference = Node("+", (left, Node("negative", (right,))))
    compared = 0
    for point in _points(names(left) | names(right)):
        zero = _vanishes(difference, point, numeric=numeric)
        if zero is False:
            return False
        compared += zero is True
        if not point and zero:
            return True
    if compared < _MIN_REAL_POINTS:
        raise NotComparable("has no value")
    return True


def proportional(left: Node, right: Node, *, numeric: bool) -> int:
    """Return the sign of the constant c != 0 with left = c * right, 0 if there is none."""
    left, right = cleared(left)[0], cleared(right)[0]
    free = names(left) | names(right)
    base = next((p for p in _points(free) if _value(right, p) not in (None, 0)), None)
    at_base = None if base is None else (_value(left, base), _value(right, base))
    if at_base and None not in at_base:
        if at_base[0] == 0:
            return 0
        ratio = number(at_base[0] / at_base[1])
        same = equal(left, Node("*", (ratio, right)), numeric=numeric)
        return (1 if ratio.args[0] > 0 else -1) * same
    if not numeric:
        raise NeedsAlgebra
    return _proportional_by_digits(left, right, free)


def _proportional_by_digits(left: Node, right: Node, free: frozenset[str]) -> int:
    for point in _points(free):
        values = approximate(left, point), approximate(right, point)
        if None in values or 0 in values:
            continue
        fixed = [_at(side, point) for side in (left, right)]
        crossed = [Node("*", (left, fixed[1])), Node("*", (right, fixed[0]))]
        return (1 if values[0] * values[1] > 0 else -1) * equal(*crossed, numeric=True)
    return 0


def exact(node: Node, point: Point | None = None) -> Fraction | None:
    """Return the value of a rational expression, None if it is not one or has none.

    Raises Unparsable for numbers that are too large.
    """
    return _value(node, point or {})


def approximate(node: Node, point: Point | None = None) -> Fraction | None:
    """Return a real value to 30 digits, None if it is not one real number."""
    if names(node) - set(point or {}):
        return None
    value = _evaluate(node, point or {}, 128, [])
    if value is None or not _is_real(value):
        return None
    import mpmath

    return Fraction(*_ratio_of(mpmath.re(value)))


@functools.lru_cache(maxsize=4096)
def names(node: Node) -> frozenset[str]:
    """Return the free names of an expression."""
    if node.op == "name":
        return frozenset(node.args)
    return frozenset().union(*(names(part) for part in _parts(node)))


def has_name(node: Node) -> bool:
    """Return whether an expression is more than a number."""
    return bool(names(node))


def signs(node: Node) -> list[Node]:
    """Return the expressions that one with ± stands for: both signs, everywhere the same."""
    if not _has_sign(node):
        return [node]
    return [_signed(node, positive) for positive in (True, False)]


def cleared(node: Node) -> tuple[Node, Node]:
    """Return numerator and denominator, without fractions in them."""
    if node.op == "/":
        (a, b), (c, d) = map(cleared, node.args)
        return _times(a, d), _times(b, c)
    if node.op == "negative":
        top, bottom = cleared(node.args[0])
        return Node("negative", (top,)), bottom
    if node.op == "*":
        (a, b), (c, d) = map(cleared, node.args)
        return _times(a, c), _times(b, d)
    if node.op == "+":
        top, bottom = cleared(node.args[0])
        for a, b in map(cleared, node.args[1:]):
            top, bottom = Node("+", (_times(top, b), _times(a, bottom))), _times(bottom, b)
        return top, bottom
    if node.op == "number":
        value, digits = node.args
        return Node("number", (Fraction(value.numerator), digits)), number(value.denominator)
    return node, ONE


def _times(a: Node, b: Node) -> Node:
    return b if a == ONE else a if b == ONE else Node("*", (a, b))


def _parts(node: Node) -> Iterator[Node]:
    for part in node.args:
        if isinstance(part, Node):
            yield part
        elif isinstance(part, tuple):
            yield from part


def _has_i(node: Node) -> bool:
    return node == Node("constant", ("i",)) or any(_has_i(part) for part in _parts(node))


def _has_sign(node: Node) -> bool:
    return node.op in "±∓" or any(_has_sign(part) for part in _parts(node))


def _signed(node: Node, positive: bool) -> Node:
    if not isinstance(node, Node) or not _has_sign(node):
        return node
    inner = [_signed(part, positive) for part in node.args]
    if node.op in "±∓":
        return inner[0] if positive == (node.op == "±") else Node("negative", (inner[0],))
    return Node(node.op, tuple(inner))


def _at(node: Node, point: Point) -> Node:
    """Put numbers for the names."""
    if node.op == "name":
        return number(point[node.args[0]])
    return Node(node.op, tuple(_at(a, point) if isinstance(a, Node) else a for a in node.args))


def _same_cells(left: Node, right: Node, *, numeric: bool) -> bool:
    shapes = [[len(row) for row in side.args] for side in (left, right)]
    return shapes[0] == shapes[1] and all(
        equal(a, b, numeric=numeric)
        for rows in zip(left.args, right.args, strict=True)
        for a, b in zip(*rows, strict=True)
    )


def _points(free: frozenset[str]) -> Iterator[Point]:
    """Yield points to compare at: positive ones, then of either sign; the same in every run."""
    if not free:
        yield {}
        return
    draw = random.Random("".join(sorted(free)))
    for index in range(_POINTS + 3):
        low = 1 if index < _POINTS - 2 else -4000
        yield {
            name: Fraction(draw.randint(low, 4000) or 1, draw.choice((997, 1009, 1013)))
            for name in sorted(free)
        }


def _vanishes(difference: Node, point: Point, *, numeric: bool) -> bool | None:
    """Return whether a difference is zero at a point, None if a side has no real value there."""
    sides = [_value(side, point) for side in difference.args]
    if None not in sides:
        return sides[0] + sides[1] == 0
    if not numeric:
        raise NeedsAlgebra
    return _vanishes_to_the_last_digit(difference, point)


def _vanishes_to_the_last_digit(difference: Node, point: Point) -> bool | None:
    import mpmath

    sizes: list[int] = []
    rough = _evaluate(difference, point, 64, sizes)
    if rough is None:
        return None
    if rough and mpmath.mag(rough) > max(sizes[:-1]) - _ROUGH_BITS and not point:
        return False
    spread = max(sizes) - min(sizes) if sizes else 0
    precision = 128 + 4 * spread
    bound = separation_bits(_at(difference, point))
    precision = min(max(precision, 0 if bound is None else bound + 64), _MAX_PRECISION)
    if 128 + spread > _MAX_PRECISION:
        raise Unparsable("refused: huge number")
    left, right = (_evaluate(side, point, precision, []) for side in difference.args)
    if left is None or right is None:
        return None
    if point and not _has_i(difference) and not (_is_real(left) and _is_real(right)):
        return None
    with mpmath.workprec(precision):
        largest = max(abs(left), abs(right))
        scale = mpmath.ldexp(1, max(sizes, default=0)) if largest == 0 else largest
        return bool(abs(left + right) <= scale * mpmath.ldexp(1, 48 - precision))


def separation_bits(node: Node) -> int | None:
    """Return how many bits of a nonzero difference of radicals can be zero, None for others.

    With u and l the bounds of the numerator and denominator and D the product of the degrees of
    the roots, |x| >= 1 / (u^(D-1) l) unless x is zero.
    """
    roots: set[Node] = set()
    bounds = _bounds(node, roots)
    if bounds is None:
        return None
    degree = math.prod(int(root.args[1].args[0]) for root in roots)
    return math.ceil((degree - 1) * bounds[0] + bounds[1]) + 1 if degree < 4096 else None


def _bounds(node: Node, roots: set[Node]) -> tuple[float, float] | None:
    """Return log2 of u and l."""
    if node.op == "number":
        value = node.args[0]
        return _log2(value.numerator), _log2(value.denominator)
    inner = [_bounds(part, roots) for part in _parts(node)]
    if None in inner or node.op not in ("+", "*", "/", "negative", "root", "^"):
        return None
    if node.op == "^":
        power = _value(node.args[1], {})
        if power is None or power.denominator != 1 or power < 0:
            return None
        return inner[0][0] * int(power), inner[0][1] * int(power)
    if node.op == "root":
        degree = _value(node.args[1], {})
        if degree is None or degree.denominator != 1 or not 2 <= degree <= 64:
            return None
        roots.add(Node("root", (node.args[0], number(degree))))
        (u, low), k = inner[0], int(degree)
        return ((u + (k - 1) * low) / k, low) if u >= low else (u, ((k - 1) * u + low) / k)
    if node.op == "/":
        return inner[0][0] + inner[1][1], inner[0][1] + inner[1][0]
    u, low = inner[0]
    for other in inner[1:]:
        total = max(u + other[1], low + other[0]) + 1 if node.op == "+" else u + other[0]
        u, low = total, low + other[1]
    return u, low


def _log2(value: int) -> float:
    return float(abs(value).bit_length())


def _value(node: Node, point: Point) -> Fraction | None:
    """Evaluate exactly; None where that is impossible or the value does not exist."""
    op, args = node
    if op == "number":
        return args[0]
    if op == "name":
        return point.get(args[0])
    if op in ("constant", "±", "∓", "matrix", "determinant"):
        return None
    values = [_value(part, point) for part in args]
    if None in values:
        return None
    rule = _EXACT.get(op)
    value = rule(*values) if rule else None
    if (
        value is not None
        and value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS
    ):
        raise Unparsable("refused: huge number")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return _power_of_root(base, exponent)
    if base == 0:
        return Fraction(0) if exponent > 0 else None
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and (size - 1 or 1) * abs(exponent) > _MAX_BITS:
        raise Unparsable("refused: huge number")
    if abs(base) == 1:
        exponent = Fraction(int(exponent) % 2)
    return base ** int(exponent)


def _power_of_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    root = _root(base, Fraction(exponent.denominator)) if base >= 0 else None
    return None if root is None else _power(root, Fraction(exponent.numerator))


def _root(radicand: Fraction, degree: Fraction) -> Fraction | None:
    """Return a root that is rational."""
    if degree.denominator != 1 or not 1 <= degree <= 64:
        return None
    k = int(degree)
    if radicand < 0:
        if k % 2 == 0:
            return None
        positive = _root(-radicand, degree)
        return None if positive is None else -positive
    parts = [_integer_root(part, k) for part in (radicand.numerator, radicand.denominator)]
    return None if None in parts else Fraction(parts[0], parts[1])


def _integer_root(value: int, k: int) -> int | None:
    low, high = 0, 1 << (value.bit_length() // k + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**k < value:
            low = middle + 1
        else:
            high = middle
    return low if low**k == value else None


def _factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1 or n < 0:
        return None
    if n > 5000:
        raise Unparsable("refused: huge number")
    return Fraction(math.factorial(int(n)))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
        return None
    if n > 10_000:
        raise Unparsable("refused: huge number")
    return Fraction(math.comb(int(n), int(k)))


_EXACT: dict[str, Any] = {
    "+": lambda *terms: sum(terms, Fraction(0)),
    "negative": lambda a: -a,
    "*": lambda *factors: functools.reduce(lambda a, b: a * b, factors),
    "/": lambda a, b: a / b if b else None,
    "^": _power,
    "root": _root,
    "absolute": abs,
    "°": lambda a: a,
    "!": _factorial,
    "binomial": _binomial,
    r"\lfloor": lambda a: Fraction(math.floor(a)),
    r"\lceil": lambda a: Fraction(math.ceil(a)),
}


def _evaluate(node: Node, point: Point, precision: int, sizes: list[int]) -> Any:
    """Evaluate with `precision` bits, None where there is no value; `sizes` gets the binary
    exponents of everything that is not zero on the way."""
    import mpmath

    with mpmath.workprec(precision):
        try:
            return _numeric(node, point, sizes, mpmath)
        except (ArithmeticError, ValueError):
            return None


def _numeric(node: Node, point: Point, sizes: list[int], mp: Any) -> Any:
    op, args = node
    if op == "number":
        value = mp.mpf(args[0].numerator) / args[0].denominator
    elif op == "name":
        value = mp.mpf(point[args[0]].numerator) / point[args[0]].denominator
    elif op == "constant":
        if args[0] == "infinity":
            raise ValueError("no number")
        value = {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[args[0]]
    elif op in _TRIGONOMETRIC and _in_degrees(args[0]):
        value = _call(mp, op, [_numeric(args[0], point, sizes, mp) * mp.pi / 180])
    else:
        value = _call(mp, op, [_numeric(part, point, sizes, mp) for part in args])
    if not mp.isfinite(value):
        raise ValueError("no number")
    if value:
        sizes.append(int(mp.mag(value)))
        if abs(sizes[-1]) > _MAX_BITS:
            raise Unparsable("refused: huge number")
    return value


_TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc")
_FUNCTIONS = {
    **{"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "ln", "lg": "log10"},
    **{name: name for name in (*_TRIGONOMETRIC, "sinh", "cosh", "tanh")},
}


def _call(mp: Any, op: str, values: list[Any]) -> Any:
    if op == "+":
        return mp.fsum(values)
    if op == "*":
        return mp.fprod(values)
    if op == "^":
        return _numeric_power(mp, *values)
    if op == "exp":
        return _numeric_power(mp, +mp.e, values[0])
    if op == "log":
        return mp.log(values[0], values[1]) if len(values) == 2 else mp.log10(values[0])
    if op == "root":
        return _numeric_root(mp, *values)
    if op in ("!", "binomial", r"\lfloor", r"\lceil"):
        return _of_integers(mp, op, values)
    if op in _FUNCTIONS:
        if abs(mp.mag(values[0])) > 4096:
            raise Unparsable("refused: huge number")
        return getattr(mp, _FUNCTIONS[op])(values[0])
    rule = {"negative": lambda a: -a, "/": lambda a, b: a / b, "absolute": abs, "°": lambda a: a}
    if op not in rule:
        raise Unparsable("not one value")
    return rule[op](*values)


def _numeric_power(mp: Any, base: Any, exponent: Any) -> Any:
    if base and abs(mp.mag(base) or 1) * abs(exponent) > _MAX_BITS:
        raise Unparsable("refused: huge number")
    return mp.power(base, exponent)


def _numeric_root(mp: Any, radicand: Any, degree: Any) -> Any:
    if not (_is_real(degree) and mp.isint(degree) and 1 <= degree <= 64):
        return mp.power(radicand, 1 / degree)
    if _is_real(radicand) and mp.re(radicand) < 0 and int(degree) % 2:
        return -mp.root(-mp.re(radicand), int(degree))
    return mp.root(radicand, int(degree))


def _of_integers(mp: Any, op: str, values: list[Any]) -> Any:
    if op in (r"\lfloor", r"\lceil"):
        nearest = mp.nint(values[0])
        if abs(values[0] - nearest) < mp.ldexp(1, -mp.prec // 2):
            return nearest
        return mp.floor(values[0]) if op == r"\lfloor" else mp.ceil(values[0])
    if not all(_is_real(value) and abs(value) < 10_000 for value in values):
        raise Unparsable("refused: huge number")
    return mp.factorial(values[0]) if op == "!" else mp.binomial(*values)


def _in_degrees(node: Node) -> bool:
    return node.op == "°" or any(_in_degrees(part) for part in _parts(node))


def _is_real(value: Any) -> bool:
    import mpmath

    return not isinstance(value, mpmath.mpc) or value.imag == 0


def _ratio_of(value: Any) -> tuple[int, int]:
    sign, mantissa, exponent, _ = value._mpf_
    mantissa = -int(mantissa) if sign else int(mantissa)
    return (mantissa << exponent, 1) if exponent >= 0 else (mantissa, 1 << -exponent)
