"""What kind of object a text looks like, where nobody says it."""

import math
import re

from vlm_rl.verification.assignments import SEPARATOR, assignments
from vlm_rl.verification.figures import figure
from vlm_rl.verification.intervals import is_infinite, reads_as_intervals
from vlm_rl.verification.notation import enclosed, mathematics, normalise, open_text, split_top
from vlm_rl.verification.words import is_phrase

_COMMA = re.compile(",")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]+)*")
_TIME = re.compile(r"\d{1,2}:(?:\d\d\s*[ap]\.?m\.?|0\d)", re.IGNORECASE)
_RATIO = re.compile(r"\d+(?:\s*:\s*\d+)+")


def form_of(text: str) -> str | None:
    """The answer type that the brackets, commas, colons and words of a text speak for, or None.

    `(1,2)` is a tuple, which as text is also an open interval; values between commas without
    brackets are a set, since solutions are listed in any order; `1:2` is a ratio, and a time where
    it could be reduced as a ratio (`5:30`) or has a leading zero.
    """
    text = text.strip()
    if colons := _colons(text):
        return colons
    if is_phrase(text) or (_WORDS.fullmatch(text) and "\\" not in mathematics(text)):
        return "text"
    if figure(text) or assignments(text):
        return None
    return _collection(normalise(text))


def _colons(text: str) -> str | None:
    if _TIME.fullmatch(text):
        return "time"
    if not _RATIO.fullmatch(text):
        return None
    parts = [int(part) for part in text.split(":")]
    clock = len(parts) == 2 and parts[0] < 24 and re.search(r":[0-5]\d$", text)
    return "time" if clock and math.gcd(*parts) > 1 else "ratio"


def _collection(text: str) -> str | None:
    if text.startswith(r"\{") and enclosed(text):
        return None if re.search(r"\\mid|\\vert|[|:]", text) else "set"
    if enclosed(text):
        return _bracketed(text)
    if re.search(r"\\cup(?![a-z])|\bor\b", open_text(text)) and reads_as_intervals(text):
        return "interval"
    parts = split_top(open_text(text), SEPARATOR)
    listed = len(parts) > 1 and all(parts) and not re.search(r"\\[lc]?dots|\\begin", text)
    return "set" if listed else None


def _bracketed(text: str) -> str | None:
    ends = split_top(text[1:-1], _COMMA)
    if len(ends) < 2 or not all(ends):
        return None
    if text[0] + text[-1] in ("[)", "(]") or any(map(is_infinite, ends)):
        return "interval" if len(ends) == 2 else None
    if text[0] == "[":
        return "interval" if len(ends) == 2 else "list"
    return "tuple"
