"""The image that a row names: its bytes, or the path or address to read it from.

One place for every way of writing it: a path, a `file://` or `data:` URI, an address on the web,
base64, bytes, an image in memory, and objects that hold one of these under a known key. A value
that names nothing (null, an empty text, an object of nulls) is no image.
"""

import base64
import binascii
import io
import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image

from vlm_rl.data.tables import BadRow

KEYS = (
    *("bytes", "path", "image", "image_url", "url", "data", "base64", "b64_json", "source"),
    *("file", "file_path", "file_name", "filename", "image_path", "src", "uri"),
)
"""Under which an object holds its image; of several that are filled the first counts, as `bytes`
beside `path` in Hugging Face `datasets`."""
_ENCODED = ("bytes", "data", "base64", "b64_json")  # text under these keys is no path
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*(;base64)?,", re.IGNORECASE)
# how JPEG, PNG, GIF, WebP, TIFF and BMP begin in base64; a path of such letters is never so long
_BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|Qk)[A-Za-z0-9+/\s]+={0,2}\s*")
_SHORTEST_BASE64 = 64
_SHOWN = 80


def listed(value: object) -> list[object]:
    """Return the images of a cell, one or several, without those that are null.

    A list may be written as JSON text, or as an object of lists (the columns of a table).
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]  # a path may begin so
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        columns = [[(key, one) for one in column] for key, column in value.items()]
        value = [dict(one) for one in zip(*columns, strict=True)]
    if not isinstance(value, list | tuple):
        return [] if is_null(value) else [value]
    found = []
    for item in value:
        found += [item] if not isinstance(item, list) else item
    return [one for one in found if not is_null(one)]


def is_null(item: object) -> bool:
    """Whether `item` names no image: as empty cells of tables and filled-up structs do."""
    if isinstance(item, dict):
        return all(is_null(value) for key, value in item.items() if key != "type")
    if isinstance(item, str):
        return not item.strip()
    return item is None or item == [] or (isinstance(item, float) and math.isnan(item))


def named(item: object) -> bytes | str:
    """Return the bytes that `item` holds, or the path or web address that it names.

    Raises BadRow for what is neither.
    """
    if isinstance(item, str):
        return _from_text(item)
    if isinstance(item, dict):
        return _from_object(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, Path):
        return str(item)
    if isinstance(item, Image.Image):
        return _png(item)
    raise _no_image(f"of type {type(item).__name__}")


def is_address(name: str) -> bool:
    """Whether a name is that of an image on the web."""
    return name[:8].lower().startswith(("http://", "https://"))


def looks_encoded(text: str) -> bool:
    """Whether a text is an image itself, as a `data:` URI or in base64, and not the name of one."""
    if text[:5].lower() == "data:":
        return True
    return len(text) >= _SHORTEST_BASE64 and _BASE64.fullmatch(text) is not None


def _from_object(item: dict[Any, Any]) -> bytes | str:
    for key in KEYS:
        value = item.get(key)
        if not is_null(value):
            if key in _ENCODED and isinstance(value, str) and value[:5].lower() != "data:":
                return _decoded(value)
            return named(value)
    raise _no_image(f"an object of {', '.join(map(str, item)) or 'nothing'}")


def _from_text(text: str) -> bytes | str:
    if looks_encoded(text):
        return _from_data_uri(text) if text[:5].lower() == "data:" else _decoded(text)
    scheme = _SCHEME.match(text)
    if scheme is None or is_address(text):
        return text
    if scheme[1].lower() != "file":
        raise BadRow(
            "no image file",
            f"image {text[:_SHOWN]!r}: {scheme[1]}:// is not read; download it and name its path",
        )
    path = unquote(text[scheme.end() :])
    return path.removeprefix("localhost") if path.startswith("localhost/") else path


def _from_data_uri(text: str) -> bytes:
    head = _DATA_URI.match(text)
    if head is None or (head[1] or "image/").partition("/")[0].lower() not in (
        "image",
        "application",
    ):
        raise BadRow("broken image", f"image {text[:_SHOWN]!r} is not a data: URI of an image")
    content = text[head.end() :]
    return _decoded(unquote(content)) if head[2] else unquote_to_bytes(content)


def _decoded(text: str) -> bytes:
    plain = "".join(text.split())
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow("broken image", f"image {text[:_SHOWN]!r} is not base64: {error}") from error


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    plain = image if image.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA") else None
    (plain or image.convert("RGB")).save(file, "PNG")
    return file.getvalue()


def _no_image(what: str) -> BadRow:
    known = ", ".join(KEYS[:5])
    return BadRow(
        "wrong type", f"an image is {what}, not a path, bytes, or an object with one of {known}"
    )
