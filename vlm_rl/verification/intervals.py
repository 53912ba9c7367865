"""Intervals and their unions, also written as solved inequalities: `1 \\le x < 2` is `[1, 2)`."""

import re
from typing import NamedTuple

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.gold import Finding, Gold
from vlm_rl.verification.notation import normalise, open_text, split_top
from vlm_rl.verification.objects import match_sequence, same_object

_OR = re.compile(r"\bor\b|\\lor(?![a-z])|\\vee(?![a-z])")
_UNION = re.compile(rf"\\cup(?![a-z])|{_OR.pattern}")
_RELATION = re.compile(r"(\\leq?(?:slant)?|\\geq?(?:slant)?|\\lt|\\gt)(?![a-z])|(<=|>=|<|>)")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?:alpha|beta|theta|lambda|mu|phi)")
_MEMBERSHIP = re.compile(r"^(?:[A-Za-z]|\\theta)\s*\\in(?![a-z])\s*")
_INFINITY = re.compile(r"[+]?\s*(?:\\infty|infinity|infty|inf|oo)")


class _Interval(NamedTuple):
    low: str
    low_closed: bool
    high: str
    high_closed: bool


def match_tuple(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """A tuple, or what its text is as well: an open interval, written as a solved inequality."""
    text = normalise(prediction)
    if _RELATION.search(text) or _MEMBERSHIP.match(text):
        return match_interval(gold, prediction, algebra)
    return match_sequence(gold, prediction, algebra)


def match_interval(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """The same ends, open or closed alike, in any order of the parts; only inequalities solved for
    one letter are read. What is no such union is left to computer algebra, the gold first.

    Parts joined with `or` must be those of the gold, since `[1,2] or (1,2)` offers two answers.
    """
    expected, given = _intervals(gold.answer), _intervals(prediction)
    if expected is None or given is None:
        same = algebra.equal(gold.answer, prediction)
        return Finding(same, "equal sets" if same else "other sets")
    if _same_parts(expected, given, algebra):
        return Finding(True, "the same ends")
    if len(expected) == len(given) == 1 or _OR.search(open_text(prediction)):
        return Finding(False, "another end")
    same = algebra.equal(*(r"\cup ".join(map(_written, parts)) for parts in (expected, given)))
    return Finding(same, "equal unions" if same else "other unions")


def reads_as_intervals(text: str) -> bool:
    return _intervals(text) is not None


def is_infinite(end: str) -> bool:
    return bool(_infinity(end))


def _intervals(text: str) -> list[_Interval] | None:
    text = _MEMBERSHIP.sub("", open_text(text))
    parts = [_bracketed(part) or _solved(part) for part in split_top(text, _UNION)]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None


def _bracketed(text: str) -> _Interval | None:
    if not re.fullmatch(r"[(\[].*[)\]]", text, re.DOTALL):
        return None
    ends = split_top(text[1:-1], re.compile(","))
    if len(ends) != 2 or not all(ends):
        return None
    return _Interval(ends[0], text[0] == "[", ends[1], text[-1] == "]")


def _solved(text: str) -> _Interval | None:
    """`1 < x \\le 2`, `2 \\ge x > 1` or `x > 1`, whose only letter is the variable itself."""
    found = list(_RELATION.finditer(text))
    sides = [side.strip() for side in _RELATION.sub("\0", text).split("\0")]
    names = [bool(_VARIABLE.fullmatch(side)) for side in sides]
    if sum(names) != 1 or not all(sides) or len(sides) not in (2, 3) or names[1:-1] == [False]:
        return None
    up = ["l" in relation[0] or "<" in relation[0] for relation in found]
    closed = ["e" in relation[0] or "=" in relation[0] for relation in found]
    if len(set(up)) > 1:
        return None
    if not up[0]:
        sides, closed, names = sides[::-1], closed[::-1], names[::-1]
    if len(sides) == 3:
        return _Interval(sides[0], closed[0], sides[2], closed[1])
    if names[0]:
        return _Interval(r"-\infty", False, sides[1], closed[0])
    return _Interval(sides[0], closed[0], r"\infty", False)


def _same_parts(expected: list[_Interval], given: list[_Interval], algebra: Algebra) -> bool:
    left = list(given)
    for part in expected:
        match = next((other for other in left if _same_interval(part, other, algebra)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _same_interval(gold: _Interval, given: _Interval, algebra: Algebra) -> bool:
    if (gold.low_closed, gold.high_closed) != (given.low_closed, given.high_closed):
        return False
    return all(
        _same_end(*ends, algebra) for ends in ((gold.low, given.low), (gold.high, given.high))
    )


def _same_end(gold: str, given: str, algebra: Algebra) -> bool:
    infinite = [_infinity(end) for end in (gold, given)]
    if any(infinite):
        return infinite[0] == infinite[1]
    return same_object(gold, given, algebra)


def _infinity(end: str) -> str:
    sign = "-" if end.startswith("-") else "+"
    return sign if _INFINITY.fullmatch(end.removeprefix("-").strip()) else ""


def _written(interval: _Interval) -> str:
    low, high = "[" if interval.low_closed else "(", "]" if interval.high_closed else ")"
    return f"{low}{interval.low}, {interval.high}{high}"
