"""Refuses, before anything parses it, text known to burn seconds or gigabytes or to be misread.

Only the cheap first line: what slips through is stopped by the limits of the checking process.
"""

import math
import re

from vlm_rl.verification.gold import Unparsable

_NESTING = 15
_POWER_OF_POWERS = 10_000
_HAZARDS = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("tower", r"\^\s*(?:-?\d+|[{(][^{}^]*\d[)\s]*)\^\s*[{(]?[^{}]*\d"),
        ("huge exponent", r"\^\s*[{(]*\s*-?\d{5,}"),
        ("factorial", r"(?:\d{4}|!|\^[^(){}!]*\}?)\s*[)}]?\s*!|\([^()]*\d{3}[^()]*\)\s*!"),
        ("binomial", r"binom\s*\{[^{}]*(?:\d{4}|\^)|binom[^{}]*\d{4}"),
        ("exercise", r"\\(?:int|iint|oint|sum|prod|lim)(?![a-z])"),
        ("many powers", r"(?:\^[^^]*){20}"),
        ("huge number", r"\d{100}"),
        ("long word", r"[A-Za-z]{40}"),
        ("number with a subscript", r"\d[\s})\]]*_"),  # which math-verify would drop
        ("approximation", r"\\(?:approx|simeq|doteq)(?![a-z])"),
        ("digits apart", r"\d\s+\d"),  # `1 2`, which math-verify would add up
    )
)
_EXPONENT = re.compile(r"\^\s*[{(]*\s*-?(\d+)")


def refuse_hazard(text: str) -> None:
    """Raise Unparsable, with the kind of hazard, for normalised text that is not to be parsed."""
    _refuse_nesting(text)
    for name, hazard in _HAZARDS:
        if hazard.search(text):
            raise Unparsable(f"refused: {name}")
    if re.search(r"\^[^^]*[)}\]]\s*\^", text) and _power(text) > _POWER_OF_POWERS:
        raise Unparsable("refused: tower")  # ((9^{999})^{999})^{999}


def _refuse_nesting(text: str) -> None:
    depth = deepest = braces = 0
    for mark in re.findall(r"\\[{}]|[()\[\]{}]", text):
        depth += (mark in "({[") - (mark in ")}]")
        deepest = max(deepest, depth)
        braces += (mark == "{") - (mark == "}")
        if braces < 0:
            break
    if deepest > _NESTING:
        raise Unparsable("refused: nested")
    if braces:  # it could close the box that it is parsed in, and open another
        raise Unparsable("refused: unbalanced braces")


def _power(text: str) -> int:
    return math.prod(max(int(exponent), 1) for exponent in _EXPONENT.findall(text))
