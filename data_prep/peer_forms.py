"""Our rows as the tables that other trainers read, so that they can be compared on the same rows.

EasyR1 reads `problem` with an `<image>` mark for each image, `answer` and `images`. TRL reads a
chat in `prompt` with a part for each image, `images`, and leaves the other columns to the rewards;
the answer is in `solution`. Images are inside the table. What a row has besides stays in columns
that these trainers pass over. Options have no place in either form: they are written into the
question as our prompts show them.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet  # type: ignore[import-untyped]
from datasets import Features, Image, List, Value

from vlm_rl.data.prompts import choices_text
from vlm_rl.records import IMAGE_MARK
from vlm_rl.show.json_text import json_text

PEERS = ("easyr1", "trl")
_ROWS_AT_ONCE = 100
_TEXT = Value("string")
_PART = {"type": _TEXT, "text": _TEXT}
_COLUMNS = {
    "easyr1": {"problem": _TEXT, "answer": _TEXT, "images": List(Image())},
    "trl": {
        "prompt": List({"role": _TEXT, "content": List(_PART)}),
        "solution": _TEXT,
        "images": List(Image()),
    },
}
_KEPT = ("uid", "answer_type", "unit", "source", "task", "split", "answer_style")


def write_peer_rows(file: Path, rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """Write `rows`, whose images lie beside `file`, as parquet, and return its sha256.

    Raises ValueError for a row that `form` cannot carry.
    """
    schema = _features(rows, form).arrow_schema
    file.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            table = [peer_row(row, form, file.parent) for row in some]
            writer.write_table(pyarrow.Table.from_pylist(table, schema))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def peer_row(row: Mapping[str, Any], form: str, folder: Path) -> dict[str, Any]:
    """Return one of our rows in `form`. Raises ValueError if it cannot carry the row."""
    question = row["problem"] + choices_text(row.get("choices"))
    images = [_image(folder / name) for name in row["images"]]
    if question.count(IMAGE_MARK) != len(images):
        raise ValueError(
            f"row {row['uid']}: {question.count(IMAGE_MARK)} {IMAGE_MARK} marks, options included, "
            f"for {len(images)} images cannot be written as --form {form}; mend the row"
        )
    kept = {name: row[name] for name in (*_KEPT, "tolerance") if row.get(name)}
    if row.get("meta"):
        kept["meta"] = json_text(row["meta"])
    answer, system = _answer(row), row.get("system")
    if form == "trl":
        turns = [{"role": "user", "content": _parts(question)}]
        if system is not None:
            said = [{"type": "text", "text": system}]
            turns.insert(0, {"role": "system", "content": said})
        return {"prompt": turns, "solution": answer, "images": images} | kept
    if system is not None:
        raise ValueError(
            f"row {row['uid']}: the EasyR1 form has no place for the system turn {system!r:.60}; "
            "use --form trl"
        )
    return {"problem": question, "answer": answer, "images": images} | kept


def changes(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the rows that a peer's form says in another way."""
    counts = Counter[str]()
    for row in rows:
        if row.get("choices"):
            counts["the options are written into the question"] += 1
        if _answer(row) != row["answer"]:
            counts["the answer is the letter of its option"] += 1
        if row.get("tolerance") or row.get("unit"):
            counts["unit and tolerance are in columns that the other trainer does not read"] += 1
    return dict(counts)


def _answer(row: Mapping[str, Any]) -> str:
    """Return the answer, by its letter if it is the text of one option: the question asks so."""
    choices, answer = row.get("choices") or [], str(row["answer"])
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    if answer in letters or choices.count(answer) != 1:
        return answer
    return letters[choices.index(answer)]


def _parts(question: str) -> list[dict[str, str | None]]:
    parts: list[dict[str, str | None]] = []
    for number, text in enumerate(question.split(IMAGE_MARK)):
        parts += [{"type": "image", "text": None}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def _image(path: Path) -> dict[str, object]:
    return {"bytes": path.read_bytes(), "path": path.name}


def _features(rows: Sequence[Mapping[str, Any]], form: str) -> Features:
    """Return the columns of a table: those of the form, and what any row has besides."""
    rules = sorted({rule for row in rows for rule in row.get("tolerance") or ()})
    more = {name: _TEXT for name in (*_KEPT, "meta") if any(row.get(name) for row in rows)}
    tolerance = {"tolerance": {rule: Value("float64") for rule in rules}} if rules else {}
    return Features(_COLUMNS[form] | more | tolerance)
