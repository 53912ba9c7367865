"""The gold of a row: one text, or several of which any counts.

A number becomes text. Of a worked solution only the last `<answer>` or box is kept. A list of
numbers, or of such lists, is a box, a point or several: JSON text.
"""

import json
import math
import re

from vlm_rl.data.chat import chat_of
from vlm_rl.data.tables import BadRow, Reason
from vlm_rl.verification.extraction import boxes

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")  # JSON can hold one, UTF-8 and tokenizers cannot


def answers_of(value: object) -> tuple[str, ...]:
    """Return the golds of a cell, at least one. Raises BadRow."""
    if not isinstance(value, list):
        return (_answer(value),)
    if value and all(isinstance(one, dict) and ("role" in one or "from" in one) for one in value):
        return (_answer(chat_of(value).answer),)
    if len(value) > 1 and _is_place(value):
        return (json.dumps(value),)
    if value and all(isinstance(one, list) and _is_place(one) for one in value):
        return (json.dumps(value if len(value) > 1 else value[0]),)
    return tuple(dict.fromkeys(map(_answer, value))) or (_answer(None),)


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


def _answer(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    text = checked_text(value, "answer", "no answer")
    cut = _TAG.findall(text)[-1:] or [text]
    cut = list(boxes(cut[0]))[-1:] or cut
    return text.strip() if cut[0] is text else checked_text(cut[0].strip(), "answer", "no answer")


def _is_place(value: list[object]) -> bool:
    return all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
        for one in value
    )
