"""Angles, triangles and relations of lines, by the letters they are named with."""

import re

from vlm_rl.verification.notation import open_text

_POINT = r"[A-Z]'*(?:_\{\w+\})?"
_NAMED = re.compile(rf"(?:m\s*)?\\(angle|triangle)\s*\{{?\s*((?:{_POINT}\s*)+|\d+)\}}?")
_SEGMENT = re.compile(rf"(?:\\overline\s*)?\{{?\s*({_POINT})\s*({_POINT})\s*\}}?")
_RELATION = re.compile(r"\\(parallel|perp|sim|cong|nparallel)(?![a-z])")


def figure(text: str) -> tuple[str, ...] | None:
    """One spelling of a figure, None for all that is none.

    An angle may be read from either side, a triangle from any corner and either way round, a
    segment in a relation from either end, and the sides of a relation may be exchanged; the
    corners of similar and congruent figures correspond, so those keep their order.
    """
    text = open_text(text)
    relations = set(_RELATION.findall(text))
    if not relations:
        return _named(text, free=True)
    sides = [part.strip() for part in _RELATION.sub("\0", text).split("\0")]
    if len(relations) > 1 or not all(sides):
        return None
    (relation,) = relations
    free = relation not in ("sim", "cong")
    return relation, *sorted("".join(_named(s, free=free) or _segment(s)) for s in sides)


def _named(text: str, *, free: bool) -> tuple[str, ...] | None:
    found = _NAMED.fullmatch(text)
    if not found:
        return None
    points = re.findall(_POINT, found[2]) or [found[2]]
    if free and found[1] == "triangle":
        points.sort()
    elif free:
        points = min(points, points[::-1])
    return found[1], *points


def _segment(text: str) -> tuple[str, ...]:
    found = _SEGMENT.fullmatch(text)
    return tuple(sorted(found.groups())) if found else (re.sub(r"\s", "", text),)
