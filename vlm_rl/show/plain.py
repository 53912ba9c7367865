"""Strings without what a terminal, a font or UTF-8 cannot show."""

import re
from typing import Any

_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of what follows
    "\u2028\u2029"  # end a line for some readers
    "\ud800-\udfff"  # halves of characters, which UTF-8 cannot write
)
_INVISIBLE = re.compile(f"[{_UNSEEN}]")
_INVISIBLE_IN_LINE = re.compile(f"[{_UNSEEN}\n]")


def visible(text: str) -> str:
    """Return `text` with each character that cannot be shown as its escape in JSON.

    Tabs and newlines stay.
    """
    return _INVISIBLE.sub(_escape, text)


def one_line(text: str) -> str:
    """Return `text` as `visible` does, with newlines as escapes too."""
    return _INVISIBLE_IN_LINE.sub(_escape, text)


def visible_in(value: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples with every string in them visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible_in(key): visible_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible_in(item) for item in value]
    return value


def _escape(match: re.Match[str]) -> str:
    return "\\n" if match[0] == "\n" else f"\\u{ord(match[0]):04x}"
