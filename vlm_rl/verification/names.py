"""Names before values: `x = 5`, `f(2) = 5`, `\\angle 1 = 5`, `the area is 5`, `A(3,-4)`."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from vlm_rl.verification.grammar import COMMANDS, FUNCTIONS
from vlm_rl.verification.notation import Token, enclosed, spelled
from vlm_rl.verification.words import negates

_TABLE = tomllib.loads(Path(__file__).with_name("notation.toml").read_text(encoding="utf-8"))
_WORDS = "|".join(_TABLE["names"]["words"].split())
_CHINESE = "|".join(sorted(_TABLE["names"]["chinese"].split(), key=len, reverse=True))
_GREEK, _ACCENTS = ("|".join(sorted(COMMANDS[kind])) for kind in ("greek", "accents"))
_ARGUMENT = r"\((?:[^()]|\([^()]*\))*\)"
_BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_LETTER = rf"(?:[A-Za-z]|\\(?i:{_GREEK})(?![a-z])|\\(?:{_ACCENTS})(?:{_BRACED}|[A-Za-z]))"
_INDEXED = rf"{_LETTER}(?:'|_(?:{_BRACED}|\w)|(?<=[A-Z])\^(?:\{{-1\}}|T\b))*"
_FIGURE = rf"m?\\(?:angle|measuredangle|triangle|odot|square)(?:{_BRACED}|[A-Z]+|\d+|[a-z])'*"
_CALL = rf"(?:{_INDEXED}(?:\^\{{-1\}})?|\\(?:{'|'.join(sorted(FUNCTIONS))})(?![a-z])){_ARGUMENT}"
_OF_ANGLE = rf"\\(?:{'|'.join(sorted(FUNCTIONS))})(?![a-z])(?:\^\d)?(?:{_FIGURE}|{_INDEXED})"
_SEGMENT = r"(?:[A-Z]'?){2,6}"
_SIMPLE = rf"(?:{_CALL}|{_OF_ANGLE}|{_FIGURE}|{_INDEXED}|{_SEGMENT}|\[[A-Z]{{2,6}}\])"
_PART = rf"\{{(?:{_INDEXED})+\}}"
_QUOTIENT = rf"\\frac{_PART}{_PART}|{_SEGMENT}/{_SEGMENT}"
_VECTOR = rf"(?:\\(?:vec|overrightarrow|overline)(?:{_BRACED}|[A-Za-z])|{_SEGMENT})"
_LENGTH = rf"\|{_VECTOR}(?:(?:[+-]|\\times|\\cdot){_VECTOR})*\|"
_DERIVATIVE = r"\\frac\{(d|\\partial)[A-Za-z]?\}\{\1[A-Za-z]\}"
_SUM = rf"{_FIGURE}(?:[+-]{_FIGURE})+"
_SETS = r"[A-Z]'?(?:\\(?:cap|cup|setminus)[A-Z]'?)+|\\complement_\{?[A-Z]\}?[A-Z]"
_LIMIT = rf"\\lim_{_BRACED}(?:{_CALL}|{_INDEXED})|\\det(?:{_INDEXED}|{_ARGUMENT})|E\[{_LETTER}\]"
_RATIO = rf"{_SIMPLE}(?::{_SIMPLE})+"
_NAME = re.compile(
    rf"(?:{_SIMPLE}|{_DERIVATIVE}|{_QUOTIENT}|{_LENGTH}|{_RATIO}|{_SUM}|{_SETS}|{_LIMIT}"
    rf"|(?:{_CHINESE})*+(?:{_SIMPLE})?(?:{_CHINESE})*+)"
)
_WORD = re.compile(rf"(?:{_WORDS})")
_POINT = re.compile(r"(?:[Tt]he)?(?:[Pp]oint|点)*(?:[A-Z](?:'|_\{?\w\}?)*)?")


def name_of(parts: Sequence[Token]) -> str | None:
    """Return the spelling of what names a value: `x`, `AB`, `f(2)`, `\\angle 1`, `the area`.

    None for what has a value of its own, or more than one: `2x`, `x^2`, `-x`, `\\sqrt{x}`, `|x|`;
    and for words that are not those of a name, which may take the value back.
    """
    if not parts:
        return None
    judged = _without_events(parts)
    is_word = [_is_word(token) and not _is_index(judged, i) for i, token in enumerate(judged)]
    words = [token.text for token, is_one in zip(judged, is_word, strict=True) if is_one]
    rest = spelled([token for token, is_one in zip(judged, is_word, strict=True) if not is_one])
    known = all(_WORD.fullmatch(word) for word in words)
    named = known and (_NAME.fullmatch(rest) or (words and not rest))
    return spelled(parts) if named else None


def _without_events(parts: Sequence[Token]) -> Sequence[Token]:
    """Drop the words of `P(\\text{red})`, which name an event."""
    called = len(parts) > 3 and parts[0].text in ("P", "E", "n") and enclosed(parts[1:])
    return [*parts[:2], *parts[-1:]] if called and parts[2].upright else parts


def _is_index(parts: Sequence[Token], place: int) -> bool:
    """Return whether a word is the index of `F_{net}`: any but one that takes the value back."""
    before = [token.text for token in parts[max(place - 2, 0) : place]]
    return before == ["_", "{"] and not negates(parts[place].text)


def _is_word(token: Token) -> bool:
    """Return whether letters are a word, not names: `of`, `area`, but not `AB`, `dy`."""
    return (
        token.kind == "letters"
        and (token.upright or len(token.text) > 2 or token.text in ("of", "it", "It"))
        and (len(token.text) > 1 and not token.text.isupper())
    )


def without_point_name(parts: tuple[Token, ...]) -> tuple[str, tuple[Token, ...]]:
    """Return the name of a point and the point: `A(3,-4)`, `A'(3,-4)`, `point P_1(3,-4)`."""
    for opening in ("(", "{"):
        start = next((i for i, token in enumerate(parts) if token.text == opening), None)
        if start is None:
            continue
        if _POINT.fullmatch(spelled(parts[:start])) and enclosed(parts[start:]):
            name = re.sub("(?:[Tt]he)?(?:[Pp]oint|点)", "", spelled(parts[:start]))
            return name, parts[start:] if opening == "(" else parts[start + 1 : -1]
    return "", parts
