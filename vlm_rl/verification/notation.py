"""One spelling for the many ways in which the same mathematics is written."""

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
"""`\\frac` read as an escape of some language became a form feed and `rac`; put back. Tabs and
carriage returns are also used honestly, so those only before the rest of a command."""
_ESCAPES = {"\f": r"\f", "\b": r"\b", "\a": r"\a", "\v": r"\v", "\t": r"\t", "\r": r"\r"}
_BEFORE_NFKC: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # it would make x2 of x² and 31/2 of 3½, and a space of the thin one between thousands
    (
        re.compile(r"[⁰¹²³⁴-⁹⁻⁺]+"),
        lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}",
    ),
    (re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])"), " "),
    (re.compile(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}(?!\d))"), ","),
)
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # first, since currency marks and spacing commands are read by what stands around them
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
"""A command whose argument is words; group 1 holds them."""
_PLAIN_COMMAND = re.compile(
    r"(?<![\\A-Za-z])(sqrt|pi|infty|sin|cos|tan|cot|ln|log|exp|alpha|beta|theta)(?![A-Za-z])"
)
_ROOT_IN_PARENTHESES = re.compile(r"\\sqrt\s*\(")


def normalise(text: str) -> str:
    """ASCII LaTeX without fences, spacing commands and characters that nobody sees: `２√３` becomes
    `2\\sqrt{3}`, and a form feed before `rac` becomes `\\frac` again."""
    text = _DAMAGED.sub(lambda found: _ESCAPES[found[0]], text)
    for pattern, replacement in _BEFORE_NFKC:
        text = pattern.sub(replacement, text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = _visible(unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/"))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;:。").strip()


def mathematics(text: str) -> str:
    """Normalised, with plain-text functions and constants made LaTeX: `2*sqrt(3)`, `3pi/4`. Not for
    words, of which some are names of functions."""
    text = _PLAIN_COMMAND.sub(r"\\\1 ", normalise(text))
    while found := _ROOT_IN_PARENTHESES.search(text):
        end = _closing(text, found.end())
        text = rf"{text[: found.start()]}\sqrt{{{text[found.end() : end]}}}{text[end + 1 :]}"
    return re.sub(r"(?<!\\)\*", r"\\cdot ", text)


def open_text(text: str) -> str:
    """Normalised, with `\\text{...}` and its like replaced by what they hold."""
    text, count = normalise(text), 1
    while count:
        text, count = TEXT_COMMAND.subn(r"\1", text)
    return text.strip()


def plain_text(text: str) -> str:
    """The words alone: text commands opened, case and spacing folded."""
    return " ".join(open_text(text).casefold().split()).strip(" .,;:!\"'`")


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Parts between the separators that stand in no bracket, stripped."""
    depth, parts, start = 0, [], 0
    for found in re.finditer(rf"[(\[{{)\]}}]|{separator.pattern}", text):
        if found[0] in "([{":
            depth += 1
        elif found[0] in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [part.strip() for part in (*parts, text[start:])]


def enclosed(text: str) -> bool:
    """Whether the bracket that opens the text closes at its end, as in `(1, 2]`."""
    if not re.match(r"\\\{|[(\[]", text):
        return False
    depth = 0
    for found in re.finditer(r"[(\[{)\]}]", text):
        depth += 1 if found[0] in "([{" else -1
        if depth == 0:
            return found.end() == len(text)
    return False


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opened before `start` closes; the end of the text if never."""
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text)


def _visible(text: str) -> str:
    """Without marks of zero width or direction; control characters separate, lone surrogates stand
    for nothing that could be read."""
    if text.isprintable():
        return text
    kinds = {character: unicodedata.category(character) for character in set(text)}
    shown = {"Cf": "", "Cc": " ", "Cs": "\N{REPLACEMENT CHARACTER}"}
    return text.translate({ord(c): shown[kind] for c, kind in kinds.items() if kind in shown})
