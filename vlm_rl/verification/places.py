"""Boxes and points in a text, as Qwen-VL models and data sets write them.

`[x1, y1, x2, y2]`, a list of such, `{"bbox_2d": [...], "label": ...}`, in a fence or between words,
and `(x1,y1),(x2,y2)`, which is what `<|box_start|>` tokens leave; points with two numbers each, and
`point_2d`. A list of other numbers, such as `[1]`, is no place; a broken one makes all unreadable.
"""

import math
import re
from decimal import Decimal
from itertools import chain
from typing import Any

from vlm_rl.verification.gold import Unparsable
from vlm_rl.verification.json_values import json_values

Place = tuple[float, ...]
"""x1, y1, x2, y2 of a box; x, y of a point."""
BOX_KEYS = ("bbox_2d", "bbox")
POINT_KEYS = ("point_2d", "point")

_NUMBER = r"[-+]?\d{1,15}(?:\.\d{1,15})?"
_PAIR = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
_TWO_CORNERS = re.compile(rf"{_PAIR}\s*,?\s*{_PAIR}")
_POINT = re.compile(_PAIR)


def read_boxes(text: str) -> tuple[Place, ...]:
    """Return the different boxes of a text, in order. Raises Unparsable if there is none."""
    return _places(text, 4, BOX_KEYS, _TWO_CORNERS, "box")


def read_points(text: str) -> tuple[Place, ...]:
    """Return the different points of a text, in order. Raises Unparsable if there is none."""
    return _places(text, 2, POINT_KEYS, _POINT, "point")


def _places(
    text: str, size: int, keys: tuple[str, ...], pattern: re.Pattern[str], name: str
) -> tuple[Place, ...]:
    try:
        values = json_values(text)
    except Unparsable as failure:
        if str(failure) != "no JSON":
            raise
        values = []
    in_json = chain.from_iterable(_in_value(value, size, keys) for value in values)
    in_pairs = (tuple(map(float, match.groups())) for match in pattern.finditer(text))
    found = tuple(dict.fromkeys((*in_json, *in_pairs)))
    if not found:
        raise Unparsable(f"no {name}")
    return found


def _in_value(value: Any, size: int, keys: tuple[str, ...]) -> list[Place]:
    """Return the places in one JSON value. Raises Unparsable for other lists and objects."""
    if isinstance(value, dict):
        own = [value[key] for key in keys if key in value]
        if len(own) != 1:
            raise Unparsable(f"an object without {' or '.join(keys)}")
        found = _in_value(own[0], size, keys)
        if not found:
            raise Unparsable(f"not {size} numbers")
        return found
    if not isinstance(value, list):
        return []
    if all(_is_number(one) for one in value):
        return [_place(value)] if len(value) == size else []
    inside = [_in_value(one, size, keys) for one in value]
    if not all(inside):
        raise Unparsable(f"a list with other things than {size} numbers")
    return [place for each in inside for place in each]


def _place(numbers: list[Any]) -> Place:
    place = tuple(_float(number) for number in numbers)
    if not all(map(math.isfinite, place)):
        raise Unparsable("a coordinate is not finite")
    return place


def _float(number: int | Decimal) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _is_number(value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
