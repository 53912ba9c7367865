"""The gold of a row: one text, or several of which any counts.

A number becomes text. Of a worked solution only the last `<answer>` or box is kept. What is made of
a list or an object, `answer_type` says: a list of numbers may be a box, a point, or several golds.
Boxes, points, cells and JSON become JSON text, which the term that judges them reads.
"""

import json
import math
import re
from collections.abc import Callable

from vlm_rl.data.chat import chat_of
from vlm_rl.data.tables import BadRow, Reason
from vlm_rl.show.json_text import json_text
from vlm_rl.verification.extraction import boxes
from vlm_rl.verification.places import BOX_KEYS, POINT_KEYS

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")  # JSON can hold one, UTF-8 and tokenizers cannot
_IN_ONE_LIST = ("list", "tuple", "set", "interval", "matrix")
"""Types of answers that are lists themselves."""


def answers_of(value: object, kind: str | None) -> tuple[str, ...]:
    """Return the golds of a cell of this `answer_type`, at least one. Raises BadRow."""
    if _is_chat(value):
        return (_answer(chat_of(value).answer),)
    gold = _GOLDS.get(kind or "", _answer)
    return tuple(dict.fromkeys(map(gold, _several(value, kind))))


def named_kind(value: object) -> str | None:
    """Return `box` or `point` for objects with a key that says so, else None."""
    objects = value if isinstance(value, list) else [value]
    for kind, keys in (("box", BOX_KEYS), ("point", POINT_KEYS)):
        if objects and all(_filled(one).keys() & set(keys) for one in objects):
            return kind
    return None


def is_places(value: object) -> bool:
    """Whether a cell is a list of two or more numbers, or of such lists."""
    return isinstance(value, list) and (_depth(value) > 1 or (_depth(value) == 1 < len(value)))


def checked_text(value: object, name: str, absent: Reason) -> str:
    """Return a text that is there and can be written. Raises BadRow."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(absent, f"{name} is missing or empty")
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{name} is of type {type(value).__name__}, not text")
    check_whole(value, name)
    return value


def check_whole(text: str, name: str) -> None:
    """Refuse half a character, which would stop whatever writes or encodes it. Raises BadRow."""
    if _HALF.search(text):
        raise BadRow("wrong value", f"{name:.60} holds half a character (a lone surrogate)")


def _is_chat(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and ("role" in one or "from" in one) for one in value)
    )


def _several(value: object, kind: str | None) -> list[object]:
    """Return the golds in a cell. Of numbers in lists, a list more than one gold needs makes
    several; of objects, a list of them is one gold."""
    if not isinstance(value, list):
        return [value]
    if not value:
        return [None]
    depth = _depth(value)
    if kind in ("box", "point"):
        alone = depth in (1, 2) or all(isinstance(one, dict) for one in value)
    elif kind in ("json", "cell"):
        alone = not all(isinstance(one, str) for one in value)
    else:
        alone = is_places(value) and (kind is None or kind in _IN_ONE_LIST)
    if alone and kind not in _GOLDS:
        return [json.dumps(value[0] if depth == 2 and len(value) == 1 else value)]
    return [value] if alone else value


def _answer(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    text = checked_text(value, "answer", "no answer")
    cut = _TAG.findall(text)[-1:] or [text]
    cut = list(boxes(cut[0]))[-1:] or cut
    return text.strip() if cut[0] is text else checked_text(cut[0].strip(), "answer", "no answer")


def _whole(value: object) -> str:
    return checked_text(value, "answer", "no answer")


def _json(value: object) -> str:
    """Return JSON text of a value, without keys that a table gives to every row as null."""
    if value is None or isinstance(value, str):
        return _answer(value)
    try:
        text = json_text(_without_nulls(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadRow("wrong value", f"answer {value!r:.100} is not JSON: {error}") from error
    return _whole(text)


_GOLDS: dict[str, Callable[[object], str]] = {
    **dict.fromkeys(("box", "point", "cell", "json"), _json),
    **dict.fromkeys(("pattern", "free_text"), _whole),
}
"""What makes a gold of a type that the verifier does not check."""


def _without_nulls(value: object) -> object:
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value


def _filled(value: object) -> dict[str, object]:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}


def _depth(value: object) -> int:
    """Return how deep numbers stand in lists: 0 for a number, -1 if it is not that alone."""
    if isinstance(value, list) and value:
        depths = {_depth(one) for one in value}
        return 1 + depths.pop() if len(depths) == 1 and -1 not in depths else -1
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return 0 if is_number and math.isfinite(value) else -1  # type: ignore[arg-type]
