"""One spelling for the many ways in which the same mathematics is written."""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SYMBOLS = {
    "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{FRACTION SLASH}": "/", "÷": r"\div ",
    "\N{MULTIPLICATION SIGN}": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "°": r"^\circ", "℃": r"^\circ C", "℉": r"^\circ F", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "±": r"\pm ", "\N{UNION}": r"\cup ",
}  # fmt: skip
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt"),
        (r"\\[dtc]frac(?![a-z])", r"\\frac"),
        (r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle)(?![a-zA-Z])", ""),
        (r"\\[()\[\]]|\$|\*\*", ""),
        (r"\{,\}|(?<=\d)\\[,!;:](?=\d{3})", ","),
        (r"\\[,!;: ]|~|\\q?quad(?![a-z])", " "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ"),
        (r"\\degree(?![a-z])", r"^\\circ"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"_(\w)", r"_{\1}"),
        (r"\{\{([^{}]*)\}\}", r"{\1}"),
        (r"\s+", " "),
    )
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|rm|bf)\s*\{([^{}]*)\}")


def normalise(text: str) -> str:
    """ASCII LaTeX without fences and spacing commands: `２√３` becomes `2\\sqrt{3}`."""
    # before NFKC, which would make x2 of x²
    text = re.sub(r"[⁰¹²³⁴-⁹⁻⁺]+", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = unicodedata.normalize("NFKC", text)
    for rule, replacement in _RULES:
        text = rule.sub(replacement, text)
    return text.strip().rstrip(".,;:。").strip()


def open_text(text: str) -> str:
    """Normalised, with `\\text{...}` and its like replaced by what they hold."""
    return _TEXT.sub(r"\1", normalise(text)).strip()


def plain_text(text: str) -> str:
    """The words alone: text commands opened, case and spacing folded."""
    return " ".join(open_text(text).casefold().split()).strip(" .,;:!\"'`")
