"""Names before values: `x = 5`, `f(2) = 5`, `\\angle 1 = 5`, `A(3,-4)`."""

import re
from collections.abc import Sequence

from vlm_rl.verification.grammar import FUNCTIONS
from vlm_rl.verification.notation import Token, enclosed, spelled
from vlm_rl.verification.words import negates

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi"
    "|omega|ell"
)
_FIGURES = (
    "angle|measuredangle|triangle|odot|square|overline|overrightarrow|vec|hat|widehat|bar|frac|cdot"
    "|cap|cup"
)
_INSIDE = r"(?:[^{}()]|[{(]%s[)}])*"
_NAME = re.compile(
    r"(?![+-])(?=.*[A-Za-z\u4e00-\u9fff])(?>"
    # anything goes in a subscript and in the argument of a function
    r"(?:(?<=_ )\{|(?<=[^\d\u4e00-\u9fff] )\()" + _INSIDE % (_INSIDE % "[^{}()]*") + r"[)}] "
    r"|(?:(?<=_ )|(?<=\\angle ))\d\S* "
    rf"|\\(?:{'|'.join(FUNCTIONS)}|{_FIGURES}|(?i:{_GREEK})) "
    r"|[A-Za-z]+ |[\u4e00-\u9fff]+ |[-+*/,.:_'{}()] )+"
)
_LENGTH = re.compile(r"\|(?:\\(?:vec|overrightarrow|overline)\{\w+\}|[A-Z]'?[A-Z]'?)\|")
_POINT = re.compile(r"(?:[Pp]oint|点)*(?:[A-Z](?:'|_\{?\w\}?)*)?")


def name_of(parts: Sequence[Token]) -> str | None:
    """Return the spelling of what names a value: `x`, `AB`, `f(2)`, `\\angle 1`, `a+b`, `Area`.

    None for what has a value of its own, or more than one: `2x`, `x^2`, `-x`, `\\sqrt{x}`, `|x|`.
    """
    text, spaced = spelled(parts), "".join(f"{token.text} " for token in parts)
    named = _NAME.fullmatch(spaced) or _LENGTH.fullmatch(text)
    return text if named and not negates(spaced) else None


def without_point_name(parts: tuple[Token, ...]) -> tuple[Token, ...]:
    """Drop what names a point: `A(3,-4)`, `A'(3,-4)`, `point P_1(3,-4)`."""
    start = next((index for index, token in enumerate(parts) if token.text == "("), 0)
    named = _POINT.fullmatch(spelled(parts[:start])) and enclosed(parts[start:])
    return parts[start:] if named else parts
