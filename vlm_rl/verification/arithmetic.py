"""Exact values of expressions: numbers put for names, and arithmetic with fractions."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import Node, number

_MAX_BITS = 1 << 15
"""Larger numbers are refused: no answer has 10,000 digits."""
_MAX_DEGREE = 64
_MAX_COUNT = 2_000
Point = Mapping[str, Fraction]
T = TypeVar("T")


class NotRational(ArithmeticError):
    """An expression has no value, or none that is known to be rational."""


COMMON: dict[str, Callable[..., Any]] = {
    "+": lambda *terms: sum(terms),
    "*": lambda *factors: math.prod(factors),
    "/": operator.truediv,
    "negative": operator.neg,
    "absolute": abs,
    "°": lambda degrees: degrees,
}
"""The operations that fractions and the numbers of mpmath write alike."""


def exact(node: Node) -> Fraction | None:
    """Return the value of a rational expression, None if it is not one or has none.

    Raises Unparsable for numbers that are too large.
    """
    try:
        return _value(node)
    except ArithmeticError:
        return None


def at(node: Node, point: Point) -> Node:
    """Return an expression with numbers put for its names."""
    if not point:
        return node
    if node.op == "name":
        return number(point[node.args[0]])
    return node.rebuilt(lambda part: at(part, point))


def last_place(value: Fraction, digits: int) -> Fraction:
    """Return one unit of the last of so many significant digits."""
    size, power = abs(value), 0
    while size >= 10:
        size, power = size / 10, power + 1
    while size and size < 1:
        size, power = size * 10, power - 1
    return Fraction(10) ** (power - digits + 1)


def as_quotient(
    op: str, parts: Sequence[tuple[T, T]], plus: Callable[[T, T], T], times: Callable[[T, T], T]
) -> tuple[T, T]:
    """Return numerator and denominator of a sum, a product or a quotient, from those of its parts.

    They are whatever `plus` and `times` take: expressions, or bounds of them.
    """
    top, bottom = parts[0]
    for a, b in parts[1:]:
        if op == "+":
            top, bottom = plus(times(top, b), times(a, bottom)), times(bottom, b)
        else:
            a, b = (b, a) if op == "/" else (a, b)
            top, bottom = times(top, a), times(bottom, b)
    return top, bottom


def _value(node: Node) -> Fraction:
    value: Fraction
    if node.op == "number":
        (value, _) = node.args
        return value
    if node.op not in _RULES:
        raise NotRational
    value = _RULES[node.op](*map(_value, node.args))
    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
        raise Unparsable("refused: huge number")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0:
            raise NotRational
        base = _root(base, Fraction(exponent.denominator))
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (size - 1) * abs(exponent.numerator) > _MAX_BITS:
        raise Unparsable("refused: huge number")
    return base**exponent.numerator


def _root(radicand: Fraction, degree: Fraction) -> Fraction:
    k = int(degree)
    if k != degree or not 1 <= k <= _MAX_DEGREE or (radicand < 0 and k % 2 == 0):
        raise NotRational
    size = abs(radicand)
    root = Fraction(_integer_root(size.numerator, k), _integer_root(size.denominator, k))
    if root**k != size:
        raise NotRational
    return root if radicand >= 0 else -root


def _integer_root(value: int, k: int) -> int:
    """Return the root rounded down, by Newton's method from above."""
    root = 1 << (value.bit_length() // k + 1)
    while root and (lower := ((k - 1) * root + value // root ** (k - 1)) // k) < root:
        root = lower
    return root


def _count(value: Fraction) -> int:
    if value.denominator != 1 or value < 0:
        raise NotRational
    if value > _MAX_COUNT:
        raise Unparsable("refused: huge number")
    return int(value)


def _binomial(n: Fraction, k: Fraction) -> int:
    """Choose from any number if few are chosen, or few are left."""
    if n.denominator != 1 or k.denominator != 1 or k < 0 or n < 0:
        raise NotRational
    if min(k, n - k) * n.numerator.bit_length() > _MAX_BITS:
        raise Unparsable("refused: huge number")
    return math.comb(int(n), int(k))


_RULES = COMMON | {
    "^": _power,
    "root": _root,
    "!": lambda n: Fraction(math.factorial(_count(n))),
    "binomial": lambda n, k: Fraction(_binomial(n, k)),
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
}
