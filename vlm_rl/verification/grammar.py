"""The grammar of expressions: tokens to a tree, or Unparsable if anything remains unread.

    sum     = [sign] product {(+ | - | ±) product}
    product = power {[· × * / ÷] power}        juxtaposition multiplies, 3 1/2 and 3\\frac12 add
    power   = atom {^ exponent | ! | ° | %}
    atom    = number | name | constant | function | group | |sum| | \\frac | \\sqrt | matrix | ...

Single letters are names. `e`, `i` and `\\pi` are constants. A word is never a product.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.notation import CLOSING, OPENING, Token, split

MAX_DEPTH = 30


class Node(NamedTuple):
    """An operation and its operands: nodes, or the value of a leaf.

    Leaves: `number` (Fraction, significant digits or None for an integer), `name`, `constant`.
    """

    op: str
    args: tuple[Any, ...]


def number(value: Fraction | int) -> Node:
    """Return the leaf of an exact number."""
    return Node("number", (Fraction(value), None))


ONE = number(1)
FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh"),
        *("tanh", "ln", "log", "lg", "exp"),
    )
)
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_GREEK = frozenset(
    (
        *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda"),
        *("mu", "nu", "xi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "Delta", "Gamma"),
        *("Omega", "Phi", "Psi", "Sigma", "Lambda", "Theta", "ell", "hbar"),
    )
)
_CLOSED_BY = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_ACCENTS = (
    r"\overline",
    r"\bar",
    r"\vec",
    r"\hat",
    r"\overrightarrow",
    r"\dot",
    r"\ddot",
    r"\widehat",
    r"\tilde",
)
_SIGNS = {"+": "+", "-": "-", r"\pm": "±", r"\mp": "∓"}
_SLASHED = ["number", "mark", "number"]
_TIMES = ("*", r"\cdot", r"\times")
_OVER = ("/", r"\div")


def parse(parts: Sequence[Token]) -> Node:
    """Return the tree of an expression. Raises Unparsable if it is not one, from end to end."""
    parser = _Parser(list(parts))
    tree = parser.sum()
    if parser.next:
        raise Unparsable("not read as mathematics")
    return tree


class _Parser:
    def __init__(self, parts: list[Token]) -> None:
        self._parts = parts
        self._at = 0
        self._depth = 0
        self._in_bars = 0

    @property
    def next(self) -> str:
        """The text of the next token, empty at the end."""
        return self._parts[self._at].text if self._at < len(self._parts) else ""

    @property
    def _kind(self) -> str:
        return self._parts[self._at].kind if self._at < len(self._parts) else ""

    def sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unparsable("refused: nested")
        terms = [self._term(first=True)]
        while self.next in _SIGNS:
            terms.append(self._term(first=False))
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def _term(self, *, first: bool) -> Node:
        sign = _SIGNS[self._take().text] if self.next in _SIGNS else "+"
        term = self._product()
        if sign == "+":
            return term
        return Node("negative", (term,)) if sign == "-" else Node(sign, (term,))

    def _product(self) -> Node:
        left = self._power()
        while True:
            if self.next in _TIMES:
                self._take()
                left = Node("*", (left, self._signed_power()))
            elif self.next in _OVER:
                self._take()
                left = Node("/", (left, self._signed_power()))
            elif self._starts_factor():
                left = self._juxtaposed(left)
            else:
                return left

    def _signed_power(self) -> Node:
        if self.next == "-":
            self._take()
            return Node("negative", (self._power(),))
        return self._power()

    def _starts_factor(self) -> bool:
        token = self.next
        if self._kind == "letters":
            return True
        if self._kind == "command":
            return token not in (r"\in", r"\le", r"\ge", r"\ne", *_TIMES, *_OVER, *_SIGNS, *CLOSING)
        if token == "|":
            return self._in_bars == 0
        return self._kind == "number" or token in ("(", "[", "{")

    def _juxtaposed(self, left: Node) -> Node:
        # `1 2` is neither a product nor 12
        if self._kind == "number" and self._parts[self._at - 1].text not in CLOSING:
            following = self._parts[self._at + 1 : self._at + 2]
            if left.op not in ("^", "name") or not following or following[0].text != "^":
                raise Unparsable("digits apart")
        return Node("*", (left, self._power()))

    def _power(self) -> Node:
        base = self._atom()
        while self.next in ("^", "!", r"\%") or (self.next == "%"):
            mark = self._take().text
            if mark == "!":
                base = Node("!", (base,))
            elif mark != "^":
                base = Node("/", (base, number(100)))
            elif self.next == r"\circ":
                self._take()
                base = Node("°", (base,))
            else:
                base = Node("^", (base, self._exponent()))
        return base

    def _exponent(self) -> Node:
        if self.next in ("-", "+"):
            sign = self._take().text
            inner = self._atom()
            return Node("negative", (inner,)) if sign == "-" else inner
        return self._atom()

    def _atom(self) -> Node:
        if not self.next:
            raise Unparsable("not read as mathematics")
        token = self._take()
        if token.kind == "number":
            return self._mixed(_number(token.text))
        if token.kind == "letters":
            return self._letters(token)
        if token.text in _CLOSED_BY:
            return self._group(token.text)
        if token.text == "|":
            self._in_bars += 1
            inner = self.sum()
            self._expect("|")
            self._in_bars -= 1
            return Node("absolute", (inner,))
        if token.kind == "command":
            return self._command(token.text)
        raise Unparsable("not read as mathematics")

    def _mixed(self, whole: Node) -> Node:
        """Read the fraction of `3\\frac12` or `3 1/2`, which is added."""
        start = self._at
        if _is_integer(whole):
            if self.next == r"\frac":
                self._take()
                top, bottom = self._argument(), self._argument()
                if _is_integer(top) and _is_integer(bottom):
                    return Node("+", (whole, Node("/", (top, bottom))))
            elif [token.kind for token in self._parts[start : start + 3]] == _SLASHED and (
                self._parts[start].spaced and self._parts[start + 1].text == "/"
            ):
                top, _, bottom = (self._take() for _ in range(3))
                return Node("+", (whole, Node("/", (_number(top.text), _number(bottom.text)))))
        self._at = start
        return whole

    def _group(self, opening: str) -> Node:
        inner = self.sum()
        self._expect(_CLOSED_BY[opening])
        if opening in (r"\lfloor", r"\lceil"):
            return Node(opening, (inner,))
        return inner

    def _letters(self, token: Token) -> Node:
        """Read the first letter of `abc`, a product, or a letter with its subscript or primes."""
        if token.upright and len(token.text) > 1 and not token.text.isupper():
            raise Unparsable("words beside the answer")
        if len(token.text) > 1:
            self._put_back(token)
            return _named(token.text[0])
        return _named(token.text + self._subscript())

    def _subscript(self) -> str:
        written = ""
        while self.next in ("_", "'"):
            mark = self._take().text
            if mark == "_":
                depth, parts = 0, []
                while True:
                    token = self._take()
                    depth += (token.text in OPENING) - (token.text in CLOSING)
                    if token.text not in ("{", "}"):
                        parts.append(token.text)
                    if depth == 0:
                        break
                mark += "".join(parts)
            written += mark
        return written

    def _command(self, command: str) -> Node:
        name = command[1:]
        if name in FUNCTIONS:
            return self._function(name)
        if name == "pi":
            return Node("constant", ("pi",))
        if name == "infty":
            return Node("constant", ("infinity",))
        if name in _GREEK:
            return Node("name", (name + self._subscript(),))
        if name == "frac":
            return Node("/", (self._argument(), self._argument()))
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return Node("binomial", (self._argument(), self._argument()))
        if command in _ACCENTS:
            return self._accented()
        if name in ("angle", "triangle", "measuredangle"):
            return self._figure(name)
        if name == "begin":
            return self._matrix()
        raise Unparsable("not read as mathematics")

    def _root(self) -> Node:
        degree: Node = number(2)
        if self.next == "[":
            self._take()
            degree = self.sum()
            self._expect("]")
        if self.next == "(":
            self._take()
            return Node("root", (self._group("("), degree))
        return Node("root", (self._argument(), degree))

    def _argument(self) -> Node:
        """Read `{...}`, or one token: the first digit only of `\\frac12`."""
        token = self._take()
        if token.text == "{":
            return self._group("{")
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self._put_back(token)
            return _number(token.text[0])
        if token.kind == "letters" and len(token.text) > 1:
            self._put_back(token)
            return _named(token.text[0])
        self._at -= 1
        return self._atom()

    def _function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        while self.next in ("^", "_"):
            if self._take().text == "_":
                base = self._argument()
            else:
                power = self._exponent()
        inverse = power == Node("negative", (ONE,)) and name in _INVERSES
        call = Node(_INVERSES[name] if inverse else name, (self._operand(),))
        if base is not None:
            call = Node("log", (*call.args, base))
        return call if power is None or inverse else Node("^", (call, power))

    def _operand(self) -> Node:
        """Read what a function is applied to: a group alone, else factors up to a sign, a dot or
        the next function."""
        if self.next in ("(", "{") or self.next == "|":
            return self._atom()
        operand = self._power()
        while self._starts_factor() and self.next[1:] not in FUNCTIONS and self.next != "(":
            operand = self._juxtaposed(operand)
        if self.next == "/" and operand.op == "constant":
            self._take()
            operand = Node("/", (operand, self._power()))
        return operand

    def _figure(self, name: str) -> Node:
        """Read `\\angle ABC` or `\\angle 1` as one name; an angle may be read from either side."""
        braced = self.next == "{"
        self._at += braced
        token = self._take()
        if braced:
            self._expect("}")
        if not re.fullmatch(r"[A-Z]{1,4}|\d+|[a-z]", token.text):
            raise Unparsable("not read as mathematics")
        written = min(token.text, token.text[::-1]) if name != "triangle" else token.text
        return Node("name", (f"{name} {written}{self._subscript()}",))

    def _accented(self) -> Node:
        parts = [self._take()]
        if parts[0].text == "{":
            while parts[-1].text != "}":
                parts.append(self._take())
        written = "".join(token.text for token in parts).strip("{}")
        if not re.fullmatch(r"[A-Za-z]+('|_\w+)*|\\[a-z]+", written):
            raise Unparsable("not read as mathematics")
        return Node("name", (written + self._subscript(),))

    def _matrix(self) -> Node:
        """Read an environment of rows and columns, whatever its brackets."""
        kind = self._braced()
        if self.next == "{" and kind == "array":
            self._braced()
        inside: list[Token] = []
        while self.next != r"\end":
            inside.append(self._take())
        self._take()
        if kind not in ("pmatrix", "bmatrix", "matrix", "array", "vmatrix", "Bmatrix") or (
            self._braced() != kind
        ):
            raise Unparsable("not read as mathematics")
        rows = [row for row in split(inside, r"\\") if row]
        cells = [tuple(parse(cell) for cell in split(row, "&")) for row in rows]
        return Node("determinant" if kind == "vmatrix" else "matrix", tuple(cells))

    def _braced(self) -> str:
        self._expect("{")
        text = ""
        while self.next not in ("}", ""):
            text += self._take().text
        self._expect("}")
        return text

    def _take(self) -> Token:
        if self._at >= len(self._parts):
            raise Unparsable("not read as mathematics")
        self._at += 1
        return self._parts[self._at - 1]

    def _put_back(self, token: Token) -> None:
        """Leave all but the first character of the last token to be read."""
        self._at -= 1
        self._parts[self._at] = token._replace(text=token.text[1:], spaced=False)

    def _expect(self, text: str) -> None:
        if self._take().text != text:
            raise Unparsable("not read as mathematics")


def _named(name: str) -> Node:
    return Node("constant", (name,)) if name in ("e", "i") else Node("name", (name,))


def _is_integer(node: Node) -> bool:
    return node.op == "number" and node.args[1] is None


def _number(text: str) -> Node:
    if again := re.fullmatch(r"(\d*)\.(\d*)\\overline\{(\d+)\}", text):
        whole, once, period = again.groups()
        part = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(once))
        return number(Fraction(f"{whole or 0}.{once or 0}") + part)
    mantissa, _, exponent = text.replace(",", "").lower().partition("e")
    if len(exponent) > 5:
        raise Unparsable("refused: huge exponent")
    digits = None
    if "." in mantissa or exponent:
        digits = len(mantissa.replace(".", "").lstrip("0")) or 1
    return Node("number", (Fraction(mantissa) * Fraction(10) ** int(exponent or 0), digits))
