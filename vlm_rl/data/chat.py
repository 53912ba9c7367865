"""A chat in a row -> the user's text and images in order, the system turn, the assistant's answer.

Turns are objects of `role` and `content` or of `from` and `value`. A content is a text or a list of
parts. An image part may name its image (`image_url`, `image`, ...) or only mark its place, as the
mark `<image>` in a text does; then the images are in a column of the row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm_rl.data.image_names import KEYS, is_null
from vlm_rl.data.tables import BadRow
from vlm_rl.records import IMAGE_MARK

PLACE = object()
"""An image part that names no image: the next one of the row's column stands here."""
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_BESIDE_IMAGES = {*KEYS, "type", "text", "detail"}
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image", "image_url", "input_image", "img")

Piece = str | tuple[object]
"""A text, or an image that is named or `PLACE`."""


@dataclass(frozen=True)
class Chat:
    """What one row says. `answer` is None without an assistant turn behind the user's."""

    parts: Sequence[Piece]
    system: str | None = None
    answer: str | None = None


def is_chat(value: object) -> bool:
    """Whether a cell is a chat, be it as JSON text; any list is, as nothing else is one."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[{"))


def chat_of(value: object) -> Chat:
    """Read a cell. Raises BadRow for what is no chat, and for turns that would not be used: a
    second one of the user, of the assistant or of the system, one out of order, tools."""
    turns = _turns(value)
    if turns is None:
        assert isinstance(value, str)
        return Chat([value])
    found: dict[str, list[Piece]] = {}
    order = []
    for turn in turns:
        role = _role(turn)
        parts = _parts(turn.get("content", turn.get("value")))
        if role in found:
            number = sum(_role(one) == role for one in turns)
            raise BadRow("wrong value", f"the chat has {number} {role} turns; one is supported")
        found[role] = parts
        order.append(role)
    if order != sorted(order, key=("system", "user", "assistant").index):
        raise BadRow("turn not used", f"the turns are in the order {', '.join(order)}")
    texts = {role: _text(found[role], role) for role in ("system", "assistant") if role in found}
    return Chat(found.get("user", []), texts.get("system"), texts.get("assistant"))


def _turns(value: object) -> list[dict[str, Any]] | None:
    """Return the turns, None for a text that only looks like a chat."""
    wrong = BadRow("wrong type", "a list here must be a chat of objects with role and content")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if not _all_turns(value):
            return None
    if not _all_turns(value):
        raise wrong
    assert isinstance(value, list)
    return value


def _all_turns(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value
    )


def _role(turn: dict[str, Any]) -> str:
    said = turn.get("role", turn.get("from"))
    role = _ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None or not is_null(turn.get("tool_calls")):
        what = f"of role {said!r}" if role is None else "with tool_calls"
        raise BadRow(
            "turn not used", f"the chat has a turn {what}; user, assistant and system are read"
        )
    return role


def _parts(content: object) -> list[Piece]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise BadRow("wrong type", f"a turn is of type {type(content).__name__}, not text or parts")
    return [_part(part) for part in content]


def _part(part: object) -> Piece:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadRow("wrong type", f"a part is of type {type(part).__name__}, not an object")
    kind, text = part.get("type"), part.get("text")
    name = {key: part[key] for key in KEYS if key in part}
    named = not is_null(name)
    if kind is None:
        kind = "image" if named else "text"
    if kind in _TEXT_PARTS and not named and isinstance(text, str | None):
        return text or ""
    if kind in _IMAGE_PARTS and not text:
        lost = [key for key in part if key not in _BESIDE_IMAGES and isinstance(part[key], str)]
        if lost and not named:
            raise BadRow(
                "image not loaded",
                f"an image part names its image by {lost[0]!r}; known are {', '.join(KEYS)}",
            )
        return (name if named else PLACE,)
    what = "names an image" if kind in _TEXT_PARTS else "is not read"
    if kind in _IMAGE_PARTS:
        what = "has a text too"
    raise BadRow("wrong value", f"a part of type {kind!r} {what}; text and images are read")


def _text(parts: Sequence[Piece], role: str) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise BadRow("image not loaded", f"the {role} turn has an image; only the user's may")
    return "".join(part for part in parts if isinstance(part, str))


def assembled(parts: Sequence[Piece], column: Sequence[object]) -> tuple[str, list[object]]:
    """Return the text with one mark per image, and the images in the order of the marks.

    `column` are the images of the row, for the places and marks in their order. Without any, they
    are the first, and the text has no mark for them. Raises BadRow if marks and images differ.
    """
    text, num_places, images = "", 0, []
    for part in parts:
        if isinstance(part, str):
            text += part
            places = part.count(IMAGE_MARK)
            images += [PLACE] * places
        else:
            text += IMAGE_MARK
            places = int(part[0] is PLACE)
            images.append(part[0])
        num_places += places
    if column and not images:
        return text, list(column)
    num_named = len(images) - num_places
    if num_places != len(column) and (column or num_named):
        raise BadRow(
            "marks and images differ",
            f"{len(images)} {IMAGE_MARK} marks for {len(column) + num_named} images; write one "
            "each, or none",
        )
    if not column:
        return text, [image for image in images if image is not PLACE]
    rest = iter(column)
    return text, [next(rest) if image is PLACE else image for image in images]
