"""Reading metrics.csv, without the libraries that write it."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_rl.disk.files import Damaged, read_text

METRICS = "metrics.csv"


def whole_rows(path: Path) -> Iterator[dict[str, float]]:
    """Yield the rows that are whole.

    A kill or a full disk may have cut the last one short, so that its last number lacks digits; a
    power cut may have left zeros. Raises Damaged if there is no header.
    """
    text, newline, _ = read_text(path).rpartition("\n")
    for row in _parsed(path, text + newline):
        if row is not None:
            yield row


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.csv without their empty cells. Raises Damaged."""
    rows = []
    for number, row in enumerate(_parsed(path, read_text(path)), 1):
        if row is None:
            raise Damaged(path, f"row {number} is not numbers under the names of the header")
        rows.append(row)
    return rows


def _parsed(path: Path, text: str) -> Iterator[dict[str, float] | None]:
    """Yield every row, or None for one that is not numbers under the header. Raises Damaged."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "step" not in (reader.fieldnames or ()):
        raise Damaged(path, "no header with the column step")
    try:
        yield from map(_numbers, reader)
    except csv.Error as error:
        raise Damaged(path, str(error)) from error


def _numbers(row: Mapping[Any, Any]) -> dict[str, float] | None:
    try:  # more cells than names are a list under None, fewer are None
        numbers = {name: float(value) for name, value in row.items() if value != ""}
    except (TypeError, ValueError):
        return None
    return numbers if "step" in numbers else None
