"""Values at high precision, and how many digits tell a small difference from none."""

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mpmath import libmp, mp

from vlm_rl.verification.arithmetic import COMMON, NotRational, as_quotient, exact
from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.grammar import Node

_MAX_PRECISION = 1 << 14
_MAX_DEGREE = 4096
_ROUGH = 64
_ROUGH_NOISE = 20
"""Rough values that differ by more than their last 44 bits are different."""
_MAX_GAMMA = 1024
"""More bits of the factorial of what is no integer take seconds."""
_NOISE = 48
"""The last bits of a precise value may be wrong."""


def approximate(node: Node) -> Fraction | None:
    """Return a real value to 30 digits, None if it is not one real number."""
    value = _evaluate(node, 128, [])
    if value is None or not _is_real(value):
        return None
    return Fraction(*libmp.to_rational(mp.re(value)._mpf_))


def same_value(left: Node, right: Node, *, real: bool) -> bool | None:
    """Return whether two expressions without names have the same value.

    None if one has no value, or with `real` no real one.
    """
    sizes: list[int] = []
    rough = _difference(left, right, _ROUGH, sizes, real=real)
    if rough is None:
        return None
    largest = max(sizes)
    if rough > largest - _ROUGH_NOISE:
        return False
    if rough > -math.inf:
        sizes.append(int(rough))
    spread = largest - min(sizes)
    if 128 + spread > _MAX_PRECISION:
        raise Unparsable("refused: huge number")
    bound = separation_bits(Node("+", (left, Node("negative", (right,)))))
    precision = max(min(128 + 4 * spread, _MAX_PRECISION), 64 + bound + max(largest, 0))
    if precision > _MAX_PRECISION:
        raise Unparsable("refused: huge number")
    precise = _difference(left, right, precision, [], real=real)
    return None if precise is None else precise <= largest + _NOISE - precision


def separation_bits(node: Node) -> int:
    """Return how many bits of a nonzero difference of radicals can be zero, 0 for others.

    With u and l the bounds of the numerator and denominator and D the product of the degrees of
    the roots, |x| >= 1 / (u^(D-1) l) unless x is zero.
    """
    roots: set[tuple[Node, int]] = set()
    try:
        u, low = _bounds(node, roots)
    except NotRational:
        return 0
    degree = math.prod(k for _, k in roots)
    return math.ceil((degree - 1) * u + low) + 1 if degree < _MAX_DEGREE else 0


def _bounds(node: Node, roots: set[tuple[Node, int]]) -> tuple[float, float]:
    """Return log2 of u and l; collect the roots. Raises NotRational for what is not a radical."""
    op, args = node
    if op == "number":
        return float(args[0].numerator.bit_length()), float(args[0].denominator.bit_length())
    if op in ("+", "*", "/", "negative"):
        parts = [_bounds(part, roots) for part in args]
        return as_quotient(op, parts, lambda a, b: max(a, b) + 1, operator.add)
    count = exact(args[1]) if op in ("^", "root") else None
    if count is None or count not in range(1, _MAX_DEGREE):
        raise NotRational
    (u, low), k = _bounds(args[0], roots), int(count)
    if op == "^":
        return u * k, low * k
    roots.add((args[0], k))
    return ((u + (k - 1) * low) / k, low) if u >= low else (u, ((k - 1) * u + low) / k)


def _difference(
    left: Node, right: Node, precision: int, sizes: list[int], *, real: bool
) -> float | None:
    """Return the binary exponent of a difference, minus infinity if it is zero."""
    values = [_evaluate(side, precision, sizes, real=real) for side in (left, right)]
    if None in values:
        return None
    with mp.workprec(precision):
        return float(mp.mag(values[0] - values[1]))


def _evaluate(node: Node, precision: int, sizes: list[int], *, real: bool = False) -> Any:
    """Return the value with `precision` bits, None if there is none or it is too large.

    With `real` nothing on the way may be imaginary: there is no root of -1, nor its square.
    `sizes` gets the binary exponents of everything that is not zero on the way.
    """
    with mp.workprec(precision):
        try:
            return _value(node, sizes, real)
        except (ArithmeticError, LookupError, ValueError):
            return None


def _value(node: Node, sizes: list[int], real: bool) -> Any:
    op, args = node
    if op == "number":
        sizes.append(-args[0].denominator.bit_length())
        value = mp.mpf(args[0].numerator) / args[0].denominator
    elif op == "constant":
        value = +_CONSTANTS[args[0]]
    else:
        values = [_value(part, sizes, real) for part in args]
        if op in _TRIGONOMETRIC and any(part.op == "°" for part in args[0].walk()):
            values[0] *= mp.pi / 180
        if op == "tanh":  # which comes as close to 1 as e^(-2x) to 0
            sizes.append(-3 * int(abs(values[0])))
        if op == "!" and mp.prec > _MAX_GAMMA and not mp.isint(values[0]):
            raise OverflowError
        value = _RULES[op](*values)
    if not mp.isfinite(value) or (real and not _is_real(value)):
        raise OverflowError
    if value:
        sizes.append(int(mp.mag(value)))
        if abs(sizes[-1]) > _MAX_PRECISION:
            raise OverflowError
    return value


def _is_real(value: Any) -> bool:
    return bool(mp.im(value) == 0)


def _power(base: Any, exponent: Any) -> Any:
    if base and abs(mp.mag(base) or 1) * abs(exponent) > _MAX_PRECISION:
        raise OverflowError
    return mp.power(base, exponent)


def _root(radicand: Any, degree: Any) -> Any:
    odd = mp.isint(degree) and int(mp.re(degree)) % 2
    if odd and _is_real(radicand) and mp.re(radicand) < 0:
        return -mp.power(-radicand, 1 / degree)
    return mp.power(radicand, 1 / degree)


def _noise() -> Any:
    """Return what an integer may be off by, so that the floor of 3 is not 2."""
    return mp.ldexp(1, -mp.prec // 2)


_TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_NAMED = {
    **{name: name for name in (*_TRIGONOMETRIC, "sinh", "cosh", "tanh", "ln", "binomial")},
    **{"arcsin": "asin", "arccos": "acos", "arctan": "atan", "lg": "log10", "!": "factorial"},
}
_CONSTANTS = {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1), "infinity": mp.inf}
_RULES: dict[str, Callable[..., Any]] = {
    **COMMON,
    **{op: getattr(mp, name) for op, name in _NAMED.items()},
    "^": _power,
    "exp": lambda exponent: _power(+mp.e, exponent),
    "root": _root,
    "log": lambda value, base=10: mp.log(value, base),
    "floor": lambda value: mp.floor(value + _noise()),
    "ceil": lambda value: mp.ceil(value - _noise()),
}
