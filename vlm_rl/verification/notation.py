"""One spelling for the many ways to write the same mathematics."""

import re
import unicodedata
from collections.abc import Callable

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SYMBOLS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{FRACTION SLASH}": "/",
    "÷": r"\div ",
    "\N{MULTIPLICATION SIGN}": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "°": r"^\circ",
    "º": r"^\circ",
    "\N{RING ABOVE}": r"^\circ",
    "℃": r"^\circ C",
    "℉": r"^\circ F",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "±": r"\pm ",
    "\N{UNION}": r"\cup ",
    "∅": r"\emptyset ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "∥": r"\parallel ",
    "⊥": r"\perp ",
    "≠": r"\ne ",
    "∛": r"\sqrt[3]",
    "\N{PRIME}": "'",
    "\u2019": "'",
    "\N{DOUBLE PRIME}": "''",
}
_DAMAGED = re.compile(
    "[\f\b\a\v](?=[A-Za-z])|\t(?=(?:ext|imes|heta|frac|an|au)(?![a-z]))"
    "|\r(?=(?:ight|angle|floor|ceil|ho|m)(?![a-z]))"
)
"""A language that reads `\\f` as an escape turns `\\frac` into a form feed and `rac`. Tabs and
carriage returns also have honest uses, so they match only before the rest of a command."""
_ESCAPES = {"\f": r"\f", "\b": r"\b", "\a": r"\a", "\v": r"\v", "\t": r"\t", "\r": r"\r"}
_BEFORE_NFKC: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # NFKC turns x² into x2, 3½ into 31/2 and the thin space between thousands into a plain one
    (
        re.compile(r"[⁰¹²³⁴-⁹⁻⁺]+"),
        lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}",
    ),
    (re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])"), " "),
    (re.compile(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}(?!\d))"), ","),
)
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # first: currency marks and spacing commands are recognised by the text around them
        (r"(?:\{,\}|(?<=\d),)(?:\\[,!;:]\s*)?(?=\d{3}(?!\d))|\{,\}", ","),
        (r"(?<=\d)\\[,!;:]\s*(?=\d{3}(?!\d))", ","),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt"),
        (r"\\[dtc]frac(?![a-z])", r"\\frac"),
        (r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle)(?![a-zA-Z])", ""),
        (r"(?<=[\w)}])\*\*(?=[\w({-])", "^"),
        (r"\\\$\s*(\d[\d.,]*(?<=\d)|\.\d+)", r"\1 dollars"),
        (r"(?<!\\)\\[()\[\]]|\$|\*\*", ""),
        (r"(?<!\\)\\[,!;: ]|~|\\q?quad(?![a-z])", " "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ"),
        (r"\\degree(?![a-z])", r"^\\circ"),
        (r"\\(sqrt|frac|text|mathrm|boxed)\s+(?=[{\[])", r"\\\1"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"_(\w)", r"_{\1}"),
        (r"\{\{([^{}]*)\}\}", r"{\1}"),
        (r"\s+", " "),
    )
)
TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt)|[mh]box|emph|rm|bf|it)"
    r"\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)
"""A command whose argument is prose; group 1 holds it."""
_PLAIN_COMMAND = re.compile(
    r"(?<![\\A-Za-z])(sqrt|pi|infty|sin|cos|tan|cot|ln|log|exp|alpha|beta|theta)(?![A-Za-z])"
)
_ROOT_IN_PARENTHESES = re.compile(r"\\sqrt\s*\(")


def normalise(text: str) -> str:
    """Return ASCII LaTeX without fences, spacing commands and invisible characters.

    `２√３` becomes `2\\sqrt{3}`; a form feed before `rac` becomes `\\frac` again.
    """
    text = _DAMAGED.sub(lambda match: _ESCAPES[match[0]], text)
    for pattern, replacement in _BEFORE_NFKC:
        text = pattern.sub(replacement, text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = _visible(unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/"))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;:。").strip()


def mathematics(text: str) -> str:
    """Normalise, and turn plain-text functions and constants into LaTeX: `2*sqrt(3)`, `3pi/4`.

    Not for prose, where such a name may be an ordinary word.
    """
    text = _PLAIN_COMMAND.sub(r"\\\1 ", normalise(text))
    while root := _ROOT_IN_PARENTHESES.search(text):
        end = _closing(text, root.end())
        text = rf"{text[: root.start()]}\sqrt{{{text[root.end() : end]}}}{text[end + 1 :]}"
    return re.sub(r"(?<!\\)\*", r"\\cdot ", text)


def open_text(text: str) -> str:
    """Normalise, and replace `\\text{...}` and its like by their contents."""
    text, count = normalise(text), 1
    while count:
        text, count = TEXT_COMMAND.subn(r"\1", text)
    return text.strip()


def plain_text(text: str) -> str:
    """Open text commands, and fold case, spacing and outer punctuation."""
    return " ".join(open_text(text).casefold().split()).strip(" .,;:!\"'`")


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split at the separators outside all brackets, and strip the parts."""
    depth, parts, start = 0, [], 0
    for mark in re.finditer(rf"[(\[{{)\]}}]|{separator.pattern}", text):
        if mark[0] in "([{":
            depth += 1
        elif mark[0] in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [part.strip() for part in (*parts, text[start:])]


def enclosed(text: str) -> bool:
    """Return whether the bracket that opens the text closes at its end, as in `(1, 2]`."""
    if not re.match(r"\\\{|[(\[]", text):
        return False
    depth = 0
    for bracket in re.finditer(r"[(\[{)\]}]", text):
        depth += 1 if bracket[0] in "([{" else -1
        if depth == 0:
            return bracket.end() == len(text)
    return False


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis opened before `start` closes, or the end of the text."""
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text)


def _visible(text: str) -> str:
    """Drop marks of zero width or direction. Control characters become spaces; lone surrogates
    become the replacement character."""
    if text.isprintable():
        return text
    shown = {"Cf": "", "Cc": " ", "Cs": "\N{REPLACEMENT CHARACTER}"}
    categories = {character: unicodedata.category(character) for character in set(text)}
    return text.translate({ord(c): shown[kind] for c, kind in categories.items() if kind in shown})
