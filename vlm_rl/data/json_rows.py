"""Rows of a JSON file as people make them: lines, a list, or an object of rows by id.

The text may start with a byte-order mark, and the file may be packed by gzip, whatever its name.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_GZIP = b"\x1f\x8b"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def json_rows(path: Path) -> Iterator[tuple[str, int, object]]:
    """Yield each row with its place, for messages, and its number.

    The number is that of a line, or of an element of a list or object, from 1. Rows of an object
    get their key as `id` unless they have one. Raises ValueError with one line for a file that
    cannot be read and for a line that is not JSON.
    """
    text = _text(path)
    # a file that was put together of several may have a mark in the middle
    numbered = ((n, line.lstrip("\ufeff")) for n, line in enumerate(text.split("\n"), 1))
    lines = [(n, line) for n, line in numbered if line.strip()]
    whole = _whole(text, lines)
    if whole is not None:
        yield from ((f"{path} row {number}", number, row) for number, row in enumerate(whole, 1))
        return
    for number, line in lines:
        place = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: not JSON: {error}") from error
        yield place, number, row


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    encoding = "utf-16" if content.startswith(_UTF_16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from error


def _whole(text: str, lines: list[tuple[int, str]]) -> list[Any] | None:
    """Return the rows if all of `text` is one value; None for a row per line."""
    if not lines or (len(lines) > 1 and _parsed(lines[0][1]) is not None):
        return None
    value = _parsed(text)
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        return [{"id": key} | row for key, row in value.items()]
    return [value] if isinstance(value, dict) and len(lines) > 1 else None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
