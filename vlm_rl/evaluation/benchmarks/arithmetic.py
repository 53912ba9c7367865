r"""The value of a closed arithmetic expression, in LaTeX or plain, without evaluating any code.

It reads numbers, `+ - * / : ^`, `\frac`, `\sqrt`, `\pi` and brackets; a product may leave its sign
out. Every value is a decimal of 30 digits with a bounded exponent, so that a tower of powers
overflows at once and nothing can grow.
"""

import decimal
import math
import re
from collections.abc import Callable
from decimal import Decimal

_MAX_CHARACTERS = 200
_MAX_BRACKETS = 40  # each is four calls deep
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+)"
    r"|(?P<word>\\[dtc]?frac|\\sqrt|\\pi|\\times|\\cdot|\\div)|(?P<sign>[-+*/:^(){}\[\]]))"
)
_PI = Decimal("3.14159265358979323846264338328")
_CONTEXT = decimal.Context(
    prec=30,
    Emin=-9999,
    Emax=9999,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_PRODUCT: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "*": lambda left, right: left * right,
    r"\times": lambda left, right: left * right,
    r"\cdot": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    ":": lambda left, right: left / right,
    r"\div": lambda left, right: left / right,
}


def arithmetic(text: str) -> float | None:
    r"""Return the finite real value of `text`, None for everything that is not plain arithmetic:
    `6\sqrt{3}+4\pi` has one, `2x` and `1/0` have none."""
    if len(text) > _MAX_CHARACTERS or len(re.findall(r"[({\[]", text)) > _MAX_BRACKETS:
        return None
    text = re.sub(r"\\left|\\right|\\displaystyle|\\[,!;: ]|\$", "", text)
    tokens = _tokens(text)
    if not tokens:
        return None
    try:
        with decimal.localcontext(_CONTEXT):
            value = float(_Reader(tokens).whole())
    except (_NotArithmetic, ArithmeticError):
        return None
    return value if math.isfinite(value) else None


class _NotArithmetic(Exception):
    """The tokens are not an expression."""


class _Reader:
    """Recursive descent, as deep as brackets are nested and signs repeated."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0

    def whole(self) -> Decimal:
        value = self._sum()
        if self._peek():
            raise _NotArithmetic
        return value

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _sum(self) -> Decimal:
        value = self._signed()
        while self._peek() in ("+", "-"):
            sign = -1 if self._take() == "-" else 1
            value += sign * self._signed()
        return value

    def _signed(self) -> Decimal:
        if self._peek() in ("+", "-"):
            return (-1 if self._take() == "-" else 1) * self._signed()
        value = self._power()
        while (token := self._peek()) and token not in (*"+-)}]",):
            if _is_number(token) and _is_number(self._tokens[self._next - 1]):
                raise _NotArithmetic  # `5 5` is not a product
            value = _PRODUCT[self._take() if token in _PRODUCT else "*"](value, self._power())
        return value

    def _power(self) -> Decimal:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._take()
        return base ** (-self._atom() if self._minus() else self._atom())

    def _minus(self) -> bool:
        is_minus = self._peek() == "-"
        self._next += is_minus
        return is_minus

    def _atom(self) -> Decimal:
        token = self._take()
        if token in _CLOSING:
            value = self._sum()
            if self._take() != _CLOSING[token]:
                raise _NotArithmetic
            return value
        if token.endswith("frac"):
            return self._atom() / self._atom()
        if token == r"\sqrt":
            degree = self._atom() if self._peek() == "[" else Decimal(2)
            return self._atom() ** (1 / degree)
        if token == r"\pi":
            return _PI
        if not _is_number(token):
            raise _NotArithmetic
        return Decimal(token.replace(",", ""))


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or token[:1] == "."


def _tokens(text: str) -> list[str]:
    """Split `text`; no tokens if anything else stands between them."""
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        token = _TOKEN.match(text, position)
        if token is None:
            return []
        tokens.append(token[token.lastgroup or 0])
        position = token.end()
    return tokens
