"""One spelling for the many ways to write the same mathematics, and its tokens.

`normalise` leaves ASCII LaTeX in which only `\\text{...}` sets words apart: symbols, fences, spacing,
style and damage from escapes are gone. `tokens` cuts that text up for the readers.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho"
_SYMBOLS = {
    **{chr(0x3B1 + index): rf"\{name} " for index, name in enumerate(_GREEK.split())},
    **{"σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "χ": r"\chi "},
    **{"ψ": r"\psi ", "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ", "\u2126": r"\Omega "},
    **{"\N{MICRO SIGN}": r"\mu ", "ℝ": r"\mathbb{R}", "Φ": r"\Phi ", "Σ": r"\Sigma "},
    **{"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{FRACTION SLASH}": "/", "÷": r"\div "},
    **{"\N{MULTIPLICATION SIGN}": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot "},
    **dict.fromkeys("°º˚\N{RING OPERATOR}", r"^\circ "),
    **{"℃": r"^\circ C", "℉": r"^\circ F", "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp "},
    **{"≤": r"\le ", "≦": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "≧": r"\ge ", "⩾": r"\ge "},
    **{"≠": r"\ne ", "≈": r"\approx ", "≒": r"\approx ", "∈": r"\in ", "∉": r"\notin "},
    **{"\N{UNION}": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "Ø": r"\emptyset "},
    **{"∖": r"\setminus ", "∧": r"\land ", "∨": r"\lor ", "⇒": r"\Rightarrow "},
    **{"∠": r"\angle ", "△": r"\triangle ", "▲": r"\triangle ", "⊙": r"\odot ", "□": r"\square "},
    **{"∥": r"\parallel ", "⊥": r"\perp ", "∽": r"\sim ", "∼": r"\sim ", "≌": r"\cong "},
    **{"≅": r"\cong ", "∛": r"\sqrt[3]", "∣": "|", "∶": ":", "⟨": r"\langle ", "⟩": r"\rangle "},
    **{"〈": r"\langle ", "〉": r"\rangle ", "【": "[", "】": "]", "…": r"\ldots "},
    **{"\N{PRIME}": "'", "\u2019": "'", "\u2018": "'", "\N{DOUBLE PRIME}": "''"},
    **{"¥": r"\yen ", "￥": r"\yen ", "£": r"\pounds ", "€": r"\euro ", "‰": r"\permil "},
    **{chr(0x2460 + index): rf"\textcircled{{{index + 1}}}" for index in range(20)},
}
_TO_LATEX = str.maketrans(_SYMBOLS)
_DAMAGED = re.compile(
    "[\f\b\a\v](?=[A-Za-z])|\t(?=(?:ext|imes|heta|frac|an|au)(?![a-z]))"
    "|\r(?=(?:ight|angle|floor|ceil|ho|m)(?![a-z]))|\n(?=eq(?![a-z]))"
)
"""A language that reads `\\f` as an escape turns `\\frac` into a form feed and `rac`. Tabs and
carriage returns also have honest uses, so they match only before the rest of a command."""
_ESCAPES = {
    "\f": r"\f",
    "\b": r"\b",
    "\a": r"\a",
    "\v": r"\v",
    "\t": r"\t",
    "\r": r"\r",
    "\n": r"\n",
}
_Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
_BEFORE_NFKC: tuple[_Rule, ...] = (
    # NFKC turns x² into x2, 3½ into 31/2 and the thin space between thousands into a plain one
    (
        re.compile(r"[⁰¹²³⁴-⁹⁻⁺]+"),
        lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}",
    ),
    (re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])"), " "),
    (re.compile(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}(?!\d))"), ""),
)
_SYNONYMS = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac "),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom "),
    **dict.fromkeys(("leq", "leqslant", "leqq"), r"\le "),
    **dict.fromkeys(("geq", "geqslant", "geqq"), r"\ge "),
    **{"neq": r"\ne ", "lt": "<", "gt": ">", "colon": ":", "prime": "'", "degree": r"^\circ "},
    **{"mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "lbrace": r"\{", "rbrace": r"\}"},
    **{"lbrack": "[", "rbrack": "]", "implies": r"\Rightarrow ", "land": r"\text{ and }"},
    **{"wedge": r"\text{ and }", "lor": r"\text{ or }", "vee": r"\text{ or }"},
    **dict.fromkeys(("simeq", "doteq"), r"\approx "),
    **{"varnothing": r"\emptyset ", "backslash": r"\setminus ", "R": r"\mathbb{R}"},
    **{
        "varphi": r"\phi ",
        "varepsilon": r"\epsilon ",
        "ohm": r"\Omega ",
        "bigtriangleup": r"\triangle ",
    },
    **{"dots": r"\ldots ", "cdots": r"\ldots ", "perthousand": r"\permil ", "euros": r"\euro "},
    **dict.fromkeys(("quad", "qquad", "space", "thinspace", "enspace", "hfill"), " "),
    **dict.fromkeys(
        (
            *(
                "left",
                "right",
                "big",
                "Big",
                "bigg",
                "Bigg",
                "bigl",
                "bigr",
                "Bigl",
                "Bigr",
                "middle",
            ),
            *("displaystyle", "textstyle", "limits", "rm", "bf", "it", "therefore", "boxed"),
            *("mathop", "mathrel", "mathord", "strut", "hphantom", "phantom", "star"),
        ),
        "",
    ),
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_UPRIGHT = r"(?:text(?:rm|sf|tt|up|normal)?|math(?:rm|sf|tt|up)|[mh]box|operatorname\*?|rm)"
_STYLE = r"(?:math(?:bf|it|cal|bfit)|text(?:bf|it|sl)|boldsymbol|bm|bf|it|emph|underline|uline)"
_ARGUMENT = r"\s*\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"
_STYLED = re.compile(rf"\\{_STYLE}{_ARGUMENT}|\\(?:text)?color\s*\{{[^{{}}]*\}}(?:{_ARGUMENT})?")
_TEXT = re.compile(rf"\\{_UPRIGHT}{_ARGUMENT}")
_CASES = r"\\begin{cases}\1\\end{cases}"
_RULES: tuple[_Rule, ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # first: currency marks and spacing commands are recognised by the text around them
        (r"(?<=\d)(?:\{,\}(?:\\[,!;:]\s*)?|,?(?:\\[,!;:]\s*)+)(?=\d{3}(?!\d))", ""),
        (r"\{,\}", ","),
        (r"(?<!text)\{([:,=<>+-])\}", r"\1"),
        (r"(?<=\d)\^?\{?(?:\\text\{)?(?:st|nd|rd|th)(?![a-z])\}{0,2}", ""),
        (r"\\overline\s*\{?\s*([A-Z]'?[A-Z]'?)\s*\}?(?![A-Za-z])", r"\1"),
        (r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\\\{\s*\\begin\{array\}\s*\{[lcr| ]*\}(.*)\\end\{array\}\s*\.?$", _CASES),
        (r"\\begin\{(?:aligned|align\*?|gathered)\}(.*)\\end\{\w+\*?\}$", _CASES),
        (r"\.{3,}", r"\\ldots "),
        (r"(?<=[.\d])\\(?:bar|dot|overline)\s*\{?\s*(\d+)\s*\}?", r"\\overline{\1}"),
        (r"(\d*\.\d*?)(\d+?)\2{2,}\s*\\ldots", r"\1\\overline{\2}"),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt "),
        (r"(?<=[\w)}])\*\*(?=[\w({-])", "^"),
        (r"(?<!\\)\\[()\[\]]|\*\*|`", ""),
        (r"(?<!\\)\\[,!;: >]|~|&nbsp;", " "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"(?<=[A-Z])\s*//\s*(?=[A-Z])", r"\\parallel "),
        (r"\\Delta\s*(?=[A-Z]{3}(?![A-Za-z]))", r"\\triangle "),
        (r"!=", r"\\ne "),
        (r"\\%", "%"),
        (r"\\'", "'"),
        (r"(\^\\circ )\s*T$", r"\1"),  # a true bearing
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\^\s*\{\s*('+)\s*\}|\^\s*('+)", r"\1\2"),
        (r"(?:\\\\?\s*)+$", ""),
        (r"(?<=\d)\.(?=\s*[/*+)-])", ""),
        (r'(?<=\d)"', "''"),
        (r"Rs\.?\s*(?=\d)", r"\\rupee "),
        (r"\\text\{\s*[.,;]?\s*\}$", ""),
        (r"(\\text\{[^{}]*?)[.,;]\s*\}$", r"\1}"),
        (r"^-\s*\\dollar ", r"\\dollar -"),
        (r"\s+", " "),
    )
)
_SIMPLE = re.compile(r"[A-Za-z ]*|-?[0-9.]*")


@functools.lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Return ASCII LaTeX without fences, spacing, style and invisible characters.

    `２√３` becomes `2\\sqrt{3}`; a form feed before `rac` becomes `\\frac` again; `\\mathbf{B}` is
    `B`, and every command that sets words upright is `\\text`.
    """
    if not _SIMPLE.fullmatch(text):
        text = _DAMAGED.sub(lambda match: _ESCAPES[match[0]], text)
        for pattern, replacement in _BEFORE_NFKC:
            text = pattern.sub(replacement, text)
        text = unicodedata.normalize("NFKC", text.translate(_TO_LATEX)).replace("\u2044", "/")
        text = _without_fences(_visible(text))
        text = _COMMAND.sub(lambda match: _SYNONYMS.get(match[1], match[0]), text)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        text = _with_one_text_command(text)
    return text.strip().rstrip(".,;:。").strip()


def open_text(text: str) -> str:
    """Normalise, and replace `\\text{...}` by its contents."""
    return _TEXT.sub(lambda match: match[1], normalise(text)).strip()


def plain_text(text: str) -> str:
    """Open text commands, and fold case, spacing and outer punctuation."""
    return " ".join(open_text(text).casefold().split()).strip(" .,;:!\"'`“”")


class Token(NamedTuple):
    """`kind` is number, letters, chinese, command or mark. `upright` letters were in `\\text`;
    a `spaced` token has white space before it."""

    kind: str
    text: str
    upright: bool
    spaced: bool


_TOKEN = re.compile(
    r"(?P<space>\s*)(?:(?P<number>\d*\.\d*\\overline\{\d+\}|(?:(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<chinese>[\u4e00-\u9fff]+)|(?P<command>\\[A-Za-z]+)|(?P<mark>\\.|\S))",
    re.DOTALL,
)
_PLAIN_COMMANDS = frozenset(
    (
        *("sqrt", "pi", "infty", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp"),
        *(
            "alpha",
            "beta",
            "theta",
            "arcsin",
            "arccos",
            "arctan",
            "sinh",
            "cosh",
            "tanh",
            "infinity",
            "inf",
            "oo",
        ),
    )
)
_INFINITIES = ("infinity", "inf", "oo")


def tokens(text: str) -> tuple[Token, ...]:
    """Return the tokens of a normalised text; those of `\\text{...}` are upright."""
    parts: list[Token] = []
    start = 0
    for command in _TEXT.finditer(text):
        parts += _tokens_of(text[start : command.start()], upright=False)
        inside = _tokens_of(command[1], upright=True)
        parts += [inside[0]._replace(spaced=True), *inside[1:]] if inside else []
        start = command.end()
    return (*parts, *_tokens_of(text[start:], upright=False))


def split(parts: Sequence[Token], *separators: str) -> list[tuple[Token, ...]]:
    """Split tokens at those with one of the texts, outside all brackets and braces."""
    depth, start, pieces = 0, 0, []
    for index, token in enumerate(parts):
        depth += (token.text in OPENING) - (token.text in CLOSING)
        if depth <= 0 and token.text in separators:
            pieces.append(tuple(parts[start:index]))
            start = index + 1
    return [*pieces, tuple(parts[start:])]


OPENING = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\begin"))
CLOSING = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil", r"\end"))


def enclosed(parts: Sequence[Token]) -> bool:
    """Return whether the bracket or brace that comes first closes at the end, as in `(1, 2]`."""
    depth = 0
    for index, token in enumerate(parts):
        depth += (token.text in OPENING) - (token.text in CLOSING)
        if depth == 0:
            return index > 0 and index == len(parts) - 1
    return False


def spelled(parts: Sequence[Token]) -> str:
    """Return tokens as one text without spaces, the same for all spacing."""
    return "".join(token.text for token in parts)


def _tokens_of(text: str, *, upright: bool) -> list[Token]:
    found = []
    for match in _TOKEN.finditer(text):
        kind, written = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "letters" and written in _PLAIN_COMMANDS:
            kind = "command"
            written = r"\infty" if written in _INFINITIES else rf"\{written}"
        behind_command = bool(found) and found[-1].kind == "command"  # which needs the space
        found.append(Token(kind, written, upright, bool(match["space"]) and not behind_command))
    return found


def _without_fences(text: str) -> str:
    """Drop dollars around formulas. One that fences nothing, or is escaped, is money."""
    odd = text.count("$") - text.count(r"\$")
    money = r"\\\$" if odd % 2 == 0 else r"\\?\$"
    text = re.sub(rf"{money}(?=\s*[\d.])", r"\\dollar ", text)
    return text.replace(r"\$", r"\dollar ").replace("$", "")


def _with_one_text_command(text: str) -> str:
    count = 1
    while count:
        text, count = _STYLED.subn(lambda match: match[1] or match[2] or "", text)
    while count := len(_TEXT.findall(text)):
        text, changed = _TEXT.subn(_words_or_formula, text)
        if all(match[0].startswith(r"\text{") for match in _TEXT.finditer(text)):
            return text
        count -= changed
    return text


def _words_or_formula(command: re.Match[str]) -> str:
    """Keep words, without nested text commands; set a formula free."""
    inside = _TEXT.sub(lambda inner: inner[1], command[1])
    return inside if re.search(r"\\(?!circ)[A-Za-z]", inside) else rf"\text{{{inside}}}"


def _visible(text: str) -> str:
    """Drop marks of zero width or direction. Control characters become spaces; lone surrogates
    become the replacement character."""
    if text.isprintable():
        return text
    shown = {"Cf": "", "Cc": " ", "Cs": "\N{REPLACEMENT CHARACTER}"}
    categories = {character: unicodedata.category(character) for character in set(text)}
    return text.translate({ord(c): shown[kind] for c, kind in categories.items() if kind in shown})
