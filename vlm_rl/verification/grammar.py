"""The grammar of expressions: tokens to a tree, or Unparsable if anything remains unread.

    sum     = [sign] product {sign product}    a sign is + - ± or ∓
    product = power {[· × * / ÷] [sign] power} juxtaposition multiplies, 3 1/2 and 3\\frac12 add
    power   = atom {^ exponent | ! | ° | %}
    atom    = number | letter | bracket sum bracket | command with its arguments

Single letters are names. `e`, `i` and `\\pi` are constants. Upright letters, and five plain ones
out of order, are a word and no product.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.notation import CLOSING, OPENING, Token, spelled, split

MAX_DEPTH = 30
MAX_FACTORS = 100
MAX_POSTFIXES = 8
MAX_EXPONENT = 3000
_LEAVES = frozenset(("number", "name", "constant"))


class Node(NamedTuple):
    """An operation and its operands: nodes, rows of nodes, or the value of a leaf.

    Leaves: `number` (Fraction, significant digits or None for an integer), `name`, `constant`.
    """

    op: str
    args: tuple[Any, ...]

    def walk(self) -> Iterator["Node"]:
        """Yield this node and all below it."""
        yield self
        if self.op not in _LEAVES:
            for part in self.args:
                for node in (part,) if isinstance(part, Node) else part:
                    yield from node.walk()

    def rebuilt(self, change: Callable[["Node"], "Node"]) -> "Node":
        """Return this operation on changed operands."""
        if self.op in _LEAVES:
            return self
        parts = (change(p) if isinstance(p, Node) else tuple(map(change, p)) for p in self.args)
        return Node(self.op, tuple(parts))


def number(value: Fraction | int) -> Node:
    """Return the leaf of an exact number."""
    return Node("number", (Fraction(value), None))


ONE = number(1)
_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
COMMANDS = {kind: frozenset(words.split()) for kind, words in _TABLE.items()}
FUNCTIONS = COMMANDS["functions"]
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_GROUPS = {
    **{"(": (")", ""), "[": ("]", ""), "{": ("}", ""), "|": ("|", "absolute")},
    **{r"\lfloor": (r"\rfloor", "floor"), r"\lceil": (r"\rceil", "ceil")},
}
"""How a group that opens so ends, and the operation that it is."""
_SIGNS = {"+": "", "-": "negative", r"\pm": "±", r"\mp": "∓"}
_FACTORS = {"*": "*", r"\cdot": "*", r"\times": "*", "/": "/", r"\div": "/"}
_POSTFIXES = ("^", "!", "%")
_MIXED = re.compile(r"\\frac(?:\{[\d,]+\}|\d){2}")
_SLASHED = re.compile(r"[\d,]+ / \d")
_APPLIED = frozenset(("g", "h", "omega", "phi", "varphi", "sigma", "tau"))
_END = Token("end", "", False, False)


def parse(parts: Sequence[Token]) -> Node:
    """Return the tree of an expression. Raises Unparsable if it is not one, from end to end."""
    parser = _Parser(parts)
    tree = parser.sum()
    parser.expect("")
    return tree


def _unread() -> Unparsable:
    return Unparsable("not read as mathematics")


class _Parser:
    def __init__(self, parts: Sequence[Token]) -> None:
        self._parts = [*parts, _END]
        self._at = 0
        self._depth = 0
        self._in_bars = 0

    @property
    def _next(self) -> str:
        return self._parts[self._at].text

    def sum(self) -> Node:
        terms = [self._signed(self._product)]
        while self._next in _SIGNS:
            terms.append(self._signed(self._product))
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def expect(self, text: str) -> None:
        if self._next != text:
            raise _unread()
        self._at += 1

    def _signed(self, read: Callable[[], Node]) -> Node:
        sign = _SIGNS[self._take().text] if self._next in _SIGNS else ""
        return Node(sign, (read(),)) if sign else read()

    def _product(self) -> Node:
        left = self._power()
        for _ in range(MAX_FACTORS):
            if self._next in _FACTORS:
                left = _combined(_FACTORS[self._take().text], left, self._signed(self._power))
            elif self._starts_factor():
                left = self._juxtaposed(left)
            else:
                return left
        raise Unparsable("refused: nested")

    def _starts_factor(self) -> bool:
        token = self._parts[self._at]
        if token.text == "|":
            return not self._in_bars
        return (
            token.kind in ("letters", "number")
            or token.text in _GROUPS
            or (token.kind == "command" and token.text[1:] in _COMMANDS)
        )

    def _juxtaposed(self, left: Node) -> Node:
        before, token, behind = (self._parts[self._at + i] for i in (-1, 0, 1))
        joined = (left.op in ("^", "name") and behind.text == "^") or before.text == "!"
        apart = before.text not in CLOSING or (before.text == "}" and left.op == "number")
        if (token.kind == "number" and apart and not joined) or (
            token.text == "{" and left.op == "number" and behind.kind == "number"
        ):
            raise Unparsable("digits apart")  # `1 2` is neither a product nor 12
        return _combined("*", left, self._power())

    def _power(self) -> Node:
        base = self._atom()
        for _ in range(MAX_POSTFIXES):
            if self._next not in _POSTFIXES:
                return base
            mark = self._take().text
            if mark == "!":
                base = Node("!", (base,))
            elif mark == "%":
                base = Node("/", (base, number(100)))
            elif self._next == r"\circ":
                self._take()
                base = Node("°", (base,))
            else:
                base = Node("^", (base, self._signed(self._atom)))
        raise Unparsable("refused: nested")

    def _atom(self) -> Node:
        is_word = self._parts[self._at].kind == "letters"
        return self._read(self._take_first() if is_word else self._take())

    def _argument(self) -> Node:
        """Read `{...}`, or one character: the first digit only of `\\frac12`."""
        return self._read(self._take_first())

    def _read(self, token: Token) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unparsable("refused: nested")
        node = self._read_atom(token)
        self._depth -= 1
        return node

    def _read_atom(self, token: Token) -> Node:
        if token.kind == "number":
            return self._mixed(_number(token.text))
        if token.kind == "letters":
            return self._chosen() if token.text == "C" else self._named(token.text)
        if token.text in _GROUPS:
            return self._group(token.text)
        name = token.text[1:]
        if token.kind != "command" or name not in _COMMANDS:
            raise _unread()
        return _COMMANDS[name](self, name)

    def _mixed(self, whole: Node) -> Node:
        """Read the fraction of `3\\frac12` or `3 1/2`, which is added."""
        behind = self._parts[self._at : self._at + 7]
        if whole.args[1] is not None:
            return whole
        if _MIXED.match(spelled(behind)):
            return Node("+", (whole, self._atom()))
        if not behind[0].spaced or not _SLASHED.match(" ".join(token.text for token in behind)):
            return whole
        self._at += 3
        return Node("+", (whole, Node("/", (_number(behind[0].text), _number(behind[2].text)))))

    def _group(self, opening: str) -> Node:
        closing, op = _GROUPS[opening]
        self._in_bars += opening == "|"
        inner = self.sum()
        self.expect(closing)
        self._in_bars -= opening == "|"
        return Node(op, (inner,)) if op else inner

    def _subscript(self) -> str:
        written = ""
        while self._next in ("_", "'"):
            written += self._take().text
            if written[-1] == "_":
                written += self._spelling()
        return written

    def _named(self, letter: str) -> Node:
        """Read a name, which may be of a function and its argument: `f(x+2)`, `I(0)`, `P(A)`."""
        name = letter + self._subscript()
        inside = spelled(self._parts[self._at : self._at + 4])
        simple = re.match(r"\((?:-?[\d.]+|[A-Za-z])\)", inside) and letter.isupper()
        product = letter not in _APPLIED or re.search("[+-]", inside)
        applied = simple or letter in "fF" or not product
        if self._next == "(" and not self._parts[self._at].spaced and applied:
            name += f"({self._spelling().strip('()')})"
        return _named(name)

    def _chosen(self) -> Node:
        """Read `C_n^k`, the binomial coefficient, or the name `C`."""
        start = self._at
        if self._next == "_":
            self._take()
            top = self._argument()
            if self._next == "^" and top != ONE:
                self._take()
                return Node("binomial", (top, self._argument()))
        self._at = start
        return self._named("C")

    def _spelling(self) -> str:
        """Take one token, or all up to the bracket that closes it; return it without braces."""
        start, depth = self._at, 0
        while True:
            text = self._take().text
            depth += (text in OPENING) - (text in CLOSING)
            if depth == 0:
                return re.sub("[{}]", "", spelled(self._parts[start : self._at]))

    def quotient(self, name: str) -> Node:
        op = {"frac": "/", "binom": "binomial"}[name]
        return Node(op, (self._argument(), self._argument()))

    def constant(self, name: str) -> Node:
        return Node("constant", ({"infty": "infinity"}.get(name, name),))

    def greek(self, name: str) -> Node:
        return self._named(name)

    def root(self, _: str) -> Node:
        degree = number(2)
        if self._next == "[":
            degree = self._group(self._take().text)
        return Node("root", (self._argument(), degree))

    def function(self, name: str) -> Node:
        power: Node | None = None
        base: tuple[Node, ...] = ()
        while self._next == "^" or (self._next == "_" and name == "log"):
            if self._take().text == "^":
                power = self._signed(self._atom)
            else:
                base = (self._argument(),)
        if power == Node("negative", (ONE,)) and name in _INVERSES:
            name, power = _INVERSES[name], None
        call = Node(name, (self._operand(), *base))
        return Node("^", (call, power)) if power else call

    def _operand(self) -> Node:
        """Read what a function is applied to: a group alone, else factors up to a sign, a dot or
        the next function."""
        if self._next in ("(", "{", "|"):
            return self._atom()
        operand = self._power()
        while self._starts_factor() and self._next[1:] not in FUNCTIONS and self._next != "(":
            operand = self._juxtaposed(operand)
        if self._next == "/" and operand.op == "constant":
            self._take()
            operand = Node("/", (operand, self._power()))
        return operand

    def figure(self, name: str) -> Node:
        """Read `\\angle ABC` or `\\angle 1` as one name; an angle may be read from either side."""
        written = self._spelling()
        if not re.fullmatch(r"[A-Z]{1,4}|\d+|[a-z]", written):
            raise _unread()
        if name != "triangle":
            written = min(written, written[::-1])
        return Node("name", (f"{name} {written}{self._subscript()}",))

    def accented(self, accent: str) -> Node:
        """Read an accent and its letter as another name than the letter."""
        written = self._spelling()
        if not re.fullmatch(r"[A-Za-z]+('|_\w+)*|\\[a-z]+", written):
            raise _unread()
        accent = {"widehat": "hat", "overrightarrow": "vec", "overline": "bar"}.get(accent, accent)
        return Node("name", (f"{accent} {written}{self._subscript()}",))

    def matrix(self, _: str) -> Node:
        """Read an environment of rows and columns, whatever its brackets."""
        kind, inside = self._spelling(), []
        if kind == "array" and self._next == "{":
            self._spelling()
        while self._next != r"\end":
            inside.append(self._take())
        self._take()
        if kind not in COMMANDS["matrices"] or self._spelling() != kind:
            raise _unread()
        rows = [row for row in split(inside, r"\\") if row]
        return Node("matrix", tuple(tuple(parse(cell) for cell in split(row, "&")) for row in rows))

    def _take(self) -> Token:
        token = self._parts[self._at]
        if token is _END:
            raise _unread()
        self._at += 1
        return token

    def _take_first(self) -> Token:
        """Take one character of letters or digits, and leave the rest; else a whole token."""
        token = self._take()
        if token.kind == "letters" and _is_word(token):
            raise Unparsable("words beside the answer")
        if len(token.text) > 1 and (token.kind == "letters" or token.text.isdigit()):
            self._parts.insert(self._at, token._replace(text=token.text[1:], spaced=False))
            return token._replace(text=token.text[0])
        return token


_COMMANDS: dict[str, Callable[[_Parser, str], Node]] = {
    **dict.fromkeys(FUNCTIONS, _Parser.function),
    **dict.fromkeys(COMMANDS["greek"], _Parser.greek),
    **dict.fromkeys(COMMANDS["accents"], _Parser.accented),
    **dict.fromkeys(COMMANDS["figures"], _Parser.figure),
    **dict.fromkeys(("frac", "binom"), _Parser.quotient),
    **dict.fromkeys(("pi", "infty"), _Parser.constant),
    "sqrt": _Parser.root,
    "begin": _Parser.matrix,
}


def _is_word(token: Token) -> bool:
    """Return whether letters are a word and no product: upright, or five that are not `abcd`."""
    text = token.text
    long = len(text) > 4 and [*text] != sorted(text)
    return (len(text) > 1 and token.upright and not text.isupper()) or (long and text.islower())


def _combined(op: str, left: Node, right: Node) -> Node:
    """Return a product or quotient; a number times a matrix is a matrix."""
    if right.op == "matrix" != left.op and op == "*":
        left, right = right, left
    if left.op == "matrix" != right.op:
        return left.rebuilt(lambda cell: Node(op, (cell, right)))
    return Node(op, (left, right))


def _named(name: str) -> Node:
    return Node("constant" if name in ("e", "i") else "name", (name,))


def _number(text: str) -> Node:
    if again := re.fullmatch(r"(\d*)\.(\d*)\\overline\{(\d+)\}", text):
        whole, once, period = again.groups()
        part = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(once))
        return number(Fraction(f"{whole or 0}.{once or 0}") + part)
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 5 or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise Unparsable("refused: huge exponent")
    digits = None
    if "." in mantissa or exponent:
        digits = len(re.sub("[.,]", "", mantissa).lstrip("0")) or 1
    return Node("number", (Fraction(text.replace(",", "")), digits))
