"""One spelling for the many ways to write the same mathematics, and its tokens.

`normalise` leaves ASCII LaTeX in which only `\\text{...}` sets words apart: symbols, fences,
spacing, style and damage from escapes are gone. Its rules are in `notation.toml`. `tokens` cuts
that text up for the readers.
"""

import functools
import itertools
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_TABLE = tomllib.loads(Path(__file__).with_name("notation.toml").read_text(encoding="utf-8"))
_SYMBOLS = str.maketrans(
    {character: latex for latex, written in _TABLE["symbols"].items() for character in written}
    | {chr(0x2460 + index): rf"\textcircled{{{index + 1}}}" for index in range(20)}
)
_COMMANDS = {
    f"\\{name}": latex for latex, names in _TABLE["commands"].items() for name in names.split()
}
COMMAND_WORDS = {word: f"\\{word}" for word in _TABLE["words"]["commands"].split()} | dict.fromkeys(
    _TABLE["words"]["infinity"].split(), r"\infty"
)
"""Words that are a command even without a backslash."""
_UNICODE_RULES, _LATEX_RULES = (
    [(trigger, re.compile(pattern), new) for trigger, pattern, new in _TABLE["rules"][name]]
    for name in ("unicode", "latex")
)

_DAMAGED = re.compile(
    "[\f\b\a\v](?=[A-Za-z])|\t(?=(?:ext|imes|heta|frac|an|au)(?![a-z]))"
    "|\r(?=(?:ight|angle|floor|ceil|ho|m)(?![a-z]))|\n(?=eq(?![a-z]))"
)
"""A language that reads `\\f` as an escape turns `\\frac` into a form feed and `rac`. Tabs and
carriage returns also have honest uses, so they match only before the rest of a command."""
_ESCAPES = dict(zip("\f\b\a\v\t\r\n", "fbavtrn", strict=True))
_SHOWN = {"Cf": "", "Cc": " ", "Cs": "\N{REPLACEMENT CHARACTER}"}
"""What stands for characters of zero width or direction, control characters, lone surrogates."""
_COMMAND = re.compile(r"\\[A-Za-z]+")
_ARGUMENT = r"\s*\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"
_STYLED = re.compile(
    r"\\(?:math(?:bf|it|cal|bfit)|text(?:bf|it|sl)|boldsymbol|bm|bf|it|emph|underline|uline)"
    rf"{_ARGUMENT}|\\(?:text)?color\s*\{{(?![Ww]hite)[^{{}}]*\}}(?:{_ARGUMENT})?"
)
_TEXT = re.compile(
    r"\\(?:text(?:rm|sf|tt|up|normal)?|ce|math(?:rm|sf|tt|up)|[mh]box|operatorname\*?|rm)"
    rf"{_ARGUMENT}"
)
_SIMPLE = re.compile(r"[A-Za-z ]*|-?\d*\.?\d*")


@functools.lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Return ASCII LaTeX without fences, spacing, style and invisible characters.

    `２√３` becomes `2\\sqrt{3}`; a form feed before `rac` becomes `\\frac` again; `\\mathbf{B}` is
    `B`, and every command that sets words upright is `\\text`.
    """
    if not _SIMPLE.fullmatch(text) or "gle " in text or "ment " in text or " to " in text:
        text = _without_fences(_in_visible_characters(text))
        text = _COMMAND.sub(lambda command: _COMMANDS.get(command[0], command[0]), text)
        text = _rewritten(text, _LATEX_RULES)
        text = _until_stable(_STYLED, lambda styled: styled[1] or styled[2] or "", text)
        text = _until_stable(_TEXT, _words_or_formula, text)
    return text.strip().rstrip(".,;:。").strip()


def open_text(text: str) -> str:
    """Normalise, and replace `\\text{...}` by its contents."""
    return _TEXT.sub(r"\1", normalise(text)).strip()


def plain_text(text: str) -> str:
    """Open text commands, and fold case, spacing and outer punctuation."""
    text = " ".join(open_text(text).casefold().split()).strip(' .,;:"`“”')
    return text.strip("!'") if re.search("[a-z]{2}|[\u4e00-\u9fff]", text) else text


def _in_visible_characters(text: str) -> str:
    """Undo damage from escapes, write symbols as LaTeX, and drop what cannot be seen."""
    if not text.isprintable():
        text = _DAMAGED.sub(lambda damaged: f"\\{_ESCAPES[damaged[0]]}", text)
    if not text.isascii():
        text = _rewritten(text, _UNICODE_RULES).translate(_SYMBOLS)
        text = unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/")
    if not text.isprintable():
        text = "".join(_SHOWN.get(unicodedata.category(shown), shown) for shown in text)
    return text


def _without_fences(text: str) -> str:
    """Drop dollars around formulas. One that fences nothing, or is escaped, is money."""
    if "$" not in text:
        return text
    odd = (text.count("$") - text.count(r"\$")) % 2
    text = re.sub(rf"\\{'?' if odd else ''}\$(?=\s*[\d.])", r"\\dollar ", text)
    return text.replace(r"\$", r"\dollar ").replace("$", "")


def _rewritten(text: str, rules: Iterable[tuple[str, re.Pattern[str], str]]) -> str:
    for trigger, pattern, replacement in rules:
        if trigger in text:  # most rules have nothing to do, and a search costs more than this
            text = pattern.sub(replacement, text)
    return text


def _until_stable(
    pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str], text: str
) -> str:
    while (changed := pattern.sub(replacement, text)) != text:
        text = changed
    return text


def _words_or_formula(command: re.Match[str]) -> str:
    """Keep words, without nested text commands; set a formula free."""
    inside = _TEXT.sub(r"\1", command[1])
    return inside if re.search(r"\\(?!circ)[A-Za-z]", inside) else rf"\text{{{inside}}}"


class Token(NamedTuple):
    """`kind` is number, letters, chinese, command or mark. `upright` letters were in `\\text`;
    a `spaced` token has white space before it."""

    kind: str
    text: str
    upright: bool
    spaced: bool


_GLUED = re.compile("(?!cost$)([A-Za-z]{0,3})(sin|cos|tan|cot|ln|log)([a-z]?)")
_TOKEN = re.compile(
    r"""
    (?P<number>
        \d*\.\d*\\overline\{\d+\}
        | (?: [1-9]\d{0,2}(?:,\d{3})+ | \d+ )? \.\d+ (?:[eE][+-]?\d+)?
        # `2e5` is a product with e, `2e10` is not
        | (?: [1-9]\d{0,2}(?:,\d{3})+(?!\d) | \d+ ) (?: E[+-]?\d+ | e[+-]?\d\d+ )? )
    | (?P<letters>[A-Za-z]+)
    | (?P<chinese>[\u4e00-\u9fff]+)
    | (?P<command>\\[A-Za-z]+)
    | (?P<mark>\\.|\S)
    """,
    re.DOTALL | re.VERBOSE,
)


@functools.lru_cache(maxsize=1 << 12)
def tokens(text: str) -> tuple[Token, ...]:
    """Return the tokens of a normalised text; those of `\\text{...}` are upright."""
    parts: list[Token] = []
    start = 0
    for command in _TEXT.finditer(text):
        parts += _tokens_of(text[start : command.start()], upright=False)
        parts += _tokens_of(f" {command[1]}", upright=True)
        start = command.end()
    return (*parts, *_tokens_of(text[start:], upright=False))


def _tokens_of(text: str, *, upright: bool) -> Iterator[Token]:
    kind, end = "", 0
    for match in _TOKEN.finditer(text):
        # a space behind a command only ends its name
        spaced = match.start() > end and kind != "command"
        kind, written, end = str(match.lastgroup), match[0], match.end()
        if kind == "letters" and written in COMMAND_WORDS:
            kind, written = "command", COMMAND_WORDS[written]
        glued = _GLUED.fullmatch(written) if kind == "letters" and not upright else None
        if glued is None:
            yield Token(kind, written, upright, spaced)
            continue
        before, function, behind = glued.groups()  # `mgsin x`
        if before:
            yield Token("letters", before, False, spaced)
        yield Token("command", f"\\{function}", False, spaced and not before)
        if behind:
            yield Token("letters", behind, False, False)


OPENING = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\begin"))
CLOSING = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil", r"\end"))


def depths(parts: Iterable[Token]) -> list[int]:
    """Return how many brackets and braces are open behind each token."""
    changes = ((token.text in OPENING) - (token.text in CLOSING) for token in parts)
    return list(itertools.accumulate(changes))


def split(parts: Sequence[Token], *separators: str) -> list[tuple[Token, ...]]:
    """Split tokens at those with one of the texts, outside all brackets and braces."""
    if not any(token.text in separators for token in parts):
        return [tuple(parts)]
    cuts = [
        index
        for index, (token, depth) in enumerate(zip(parts, depths(parts), strict=True))
        if token.text in separators and depth <= 0
    ]
    starts = [0, *(cut + 1 for cut in cuts)]
    return [tuple(parts[a:b]) for a, b in zip(starts, [*cuts, len(parts)], strict=True)]


def enclosed(parts: Sequence[Token]) -> bool:
    """Return whether the bracket or brace that comes first closes at the end, as in `(1, 2]`."""
    *inside, end = depths(parts) or [1]
    return end == 0 and bool(inside) and 0 not in inside


def spelled(parts: Sequence[Token]) -> str:
    """Return tokens as one text without spaces, the same for all spacing."""
    return "".join(token.text for token in parts)
