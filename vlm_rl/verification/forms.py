"""What a text looks like: a phrase, a figure, named values, intervals, a list or a tuple.

Nothing here is computed; the matchers in `objects` compare the parts.
"""

import math
import re
from typing import NamedTuple

from vlm_rl.verification.notation import enclosed, mathematics, normalise, open_text, split_top

SEPARATOR = re.compile(r"[;]|,(?!(?<=\d,)\d{3}(?!\d))|\bor\b|\band\b")
"""What stands between listed values. A comma within thousands does not."""
_COMMA = re.compile(",")
_TIME = re.compile(r"\d{1,2}:(?:\d\d\s*[ap]\.?m\.?|0\d)", re.IGNORECASE)
_RATIO = re.compile(r"\d+(?:\s*:\s*\d+)+")


def form_of(text: str) -> str | None:
    """Return the answer type that brackets, commas, colons and words speak for, or None.

    `(1,2)` is a tuple, although it could be an open interval. Values between commas without
    brackets are a set, since solutions are listed in any order. `1:2` is a ratio, but a time if it
    could be reduced as a ratio (`5:30`) or has a leading zero.
    """
    text = text.strip()
    if with_colons := _form_with_colons(text):
        return with_colons
    if is_phrase(text) or (_PROSE.fullmatch(text) and "\\" not in mathematics(text)):
        return "text"
    if figure(text) or named_values(text):
        return None
    return _form_of_collection(normalise(text))


def _form_with_colons(text: str) -> str | None:
    if _TIME.fullmatch(text):
        return "time"
    if not _RATIO.fullmatch(text):
        return None
    parts = [int(part) for part in text.split(":")]
    clock = len(parts) == 2 and parts[0] < 24 and re.search(r":[0-5]\d$", text)
    return "time" if clock and math.gcd(*parts) > 1 else "ratio"


def _form_of_collection(text: str) -> str | None:
    if text.startswith(r"\{") and enclosed(text):
        return None if re.search(r"\\mid|\\vert|[|:]", text) else "set"
    if enclosed(text):
        return _form_in_brackets(text)
    if re.search(r"\\cup(?![a-z])|\bor\b", open_text(text)) and union_of_intervals(text):
        return "interval"
    parts = split_top(open_text(text), SEPARATOR)
    listed = len(parts) > 1 and all(parts) and not re.search(r"\\[lc]?dots|\\begin", text)
    return "set" if listed else None


def _form_in_brackets(text: str) -> str | None:
    ends = split_top(text[1:-1], _COMMA)
    if len(ends) < 2 or not all(ends):
        return None
    if text[0] + text[-1] in ("[)", "(]") or any(map(infinity_sign, ends)):
        return "interval" if len(ends) == 2 else None
    if text[0] == "[":
        return "interval" if len(ends) == 2 else "list"
    return "tuple"


_PROSE = re.compile(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]+)*")
_TOKEN = r"(?:[^\W\d_]+|\d+(?:st|nd|rd|th)?)"
_PHRASE = re.compile(rf"{_TOKEN}(?:(?:[\s.'-]+|,\s+(?=\d)){_TOKEN})*")
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "exp"),
        *("sqrt", "infty", "alpha", "beta", "theta", "and"),
    )
)


def is_phrase(text: str) -> bool:
    """Return whether a text is words, perhaps with numbers among them, not products of letters:
    `isosceles`, `June 20, 2020`, but not `ab` or `sin 20`."""
    text = open_text(text)
    long = {word.casefold() for word in re.findall(r"[^\W\d_]{3,}", text)}
    return bool(long - _FUNCTIONS) and bool(_PHRASE.fullmatch(text))


_NAMED_VALUE = re.compile(r"((?:[A-Za-z]|\\[a-z]+)(?:_\{\w+\})?)\s*=\s*([^=]+)")


class NamedValue(NamedTuple):
    """One of several, such as `x = 1, y = 2`. The name of a root `x_1` is only `x`: a solver may
    number the roots of an equation in any order."""

    name: str
    value: str


def named_values(text: str) -> list[NamedValue] | None:
    """Return the two or more named values of a text that holds nothing else, None otherwise."""
    parts = [_NAMED_VALUE.fullmatch(part) for part in split_top(open_text(text), SEPARATOR)]
    named = [NamedValue(_common_name(part[1]), part[2].strip()) for part in parts if part]
    return named if len(named) == len(parts) > 1 else None


def _common_name(written: str) -> str:
    return "x" if re.fullmatch(r"x_\{\w+\}", written) else written


_POINT = r"[A-Z]'*(?:_\{\w+\})?"
_FIGURE = re.compile(rf"(?:m\s*)?\\(angle|triangle)\s*\{{?\s*((?:{_POINT}\s*)+|\d+)\}}?")
_SEGMENT = re.compile(rf"(?:\\overline\s*)?\{{?\s*({_POINT})\s*({_POINT})\s*\}}?")
_FIGURE_RELATION = re.compile(r"\\(parallel|perp|sim|cong|nparallel)(?![a-z])")


def figure(text: str) -> tuple[str, ...] | None:
    """Return the one spelling of an angle, a triangle or a relation of lines, None otherwise.

    An angle may be read from either side, a triangle from any corner either way round, a segment
    in a relation from either end. The sides of a relation may be exchanged. The corners of similar
    and congruent figures correspond, so they keep their order.
    """
    text = open_text(text)
    relations = set(_FIGURE_RELATION.findall(text))
    if not relations:
        return _named_figure(text, ordered=False)
    sides = [part.strip() for part in _FIGURE_RELATION.sub("\0", text).split("\0")]
    if len(relations) > 1 or not all(sides):
        return None
    (relation,) = relations
    ordered = relation in ("sim", "cong")
    spelled = [_named_figure(side, ordered=ordered) or _segment(side) for side in sides]
    return relation, *sorted(map("".join, spelled))


def _named_figure(text: str, *, ordered: bool) -> tuple[str, ...] | None:
    named = _FIGURE.fullmatch(text)
    if not named:
        return None
    points = re.findall(_POINT, named[2]) or [named[2]]
    if not ordered:
        points = sorted(points) if named[1] == "triangle" else min(points, points[::-1])
    return named[1], *points


def _segment(text: str) -> tuple[str, ...]:
    segment = _SEGMENT.fullmatch(text)
    return tuple(sorted(segment.groups())) if segment else (re.sub(r"\s", "", text),)


OR = re.compile(r"\bor\b|\\lor(?![a-z])|\\vee(?![a-z])")
_UNION = re.compile(rf"\\cup(?![a-z])|{OR.pattern}")
_INEQUALITY = re.compile(r"(\\leq?(?:slant)?|\\geq?(?:slant)?|\\lt|\\gt)(?![a-z])|(<=|>=|<|>)")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?:alpha|beta|theta|lambda|mu|phi)")
_MEMBERSHIP = re.compile(r"^(?:[A-Za-z]|\\theta)\s*\\in(?![a-z])\s*")
_INFINITY = re.compile(r"[+]?\s*(?:\\infty|infinity|infty|inf|oo)")


class RealInterval(NamedTuple):
    """An interval by the text of its ends."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool

    def __str__(self) -> str:
        low, high = "[" if self.low_closed else "(", "]" if self.high_closed else ")"
        return f"{low}{self.low}, {self.high}{high}"


def union_of_intervals(text: str) -> list[RealInterval] | None:
    """Return the intervals of a union, None for any other text.

    A part may be a solved inequality: `1 \\le x < 2` is `[1, 2)`.
    """
    text = _MEMBERSHIP.sub("", open_text(text))
    parts = [_interval_in_brackets(part) or _solved(part) for part in split_top(text, _UNION)]
    intervals = [part for part in parts if part is not None]
    return intervals if len(intervals) == len(parts) else None


def has_inequality(text: str) -> bool:
    """Return whether a text holds an inequality or starts with `x \\in`."""
    text = normalise(text)
    return bool(_INEQUALITY.search(text) or _MEMBERSHIP.match(text))


def infinity_sign(end: str) -> str:
    """Return `+` or `-` for an infinite end of an interval, an empty text for any other."""
    sign = "-" if end.startswith("-") else "+"
    return sign if _INFINITY.fullmatch(end.removeprefix("-").strip()) else ""


def _interval_in_brackets(text: str) -> RealInterval | None:
    if not re.fullmatch(r"[(\[].*[)\]]", text, re.DOTALL):
        return None
    ends = split_top(text[1:-1], _COMMA)
    if len(ends) != 2 or not all(ends):
        return None
    return RealInterval(ends[0], text[0] == "[", ends[1], text[-1] == "]")


def _solved(text: str) -> RealInterval | None:
    """Read `1 < x \\le 2`, `2 \\ge x > 1` or `x > 1`, whose only letter is the variable."""
    relations = list(_INEQUALITY.finditer(text))
    sides = [side.strip() for side in _INEQUALITY.sub("\0", text).split("\0")]
    names = [bool(_VARIABLE.fullmatch(side)) for side in sides]
    if sum(names) != 1 or not all(sides) or len(sides) not in (2, 3) or names[1:-1] == [False]:
        return None
    up = ["l" in relation[0] or "<" in relation[0] for relation in relations]
    closed = ["e" in relation[0] or "=" in relation[0] for relation in relations]
    if len(set(up)) > 1:
        return None
    if not up[0]:
        sides, closed, names = sides[::-1], closed[::-1], names[::-1]
    if len(sides) == 3:
        return RealInterval(sides[0], closed[0], sides[2], closed[1])
    if names[0]:
        return RealInterval(r"-\infty", False, sides[1], closed[0])
    return RealInterval(sides[0], closed[0], r"\infty", False)
