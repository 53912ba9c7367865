"""JSON as UTF-8 that people can read and that takes every string, also half a character."""

import json
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: Any, indent: int | None = None, *, allow_nan: bool = True) -> str:
    """Return `value` as JSON in readable characters.

    A lone surrogate is an escape, so that the text can be written as UTF-8 and reads back as it
    was. Raises ValueError for NaN and infinity, which are not JSON, unless `allow_nan`.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
