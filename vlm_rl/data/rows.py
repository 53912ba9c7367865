"""Rows on disk or on the hub -> `Problem` records.

Columns are named as in `COLUMNS`; the names that other projects use for question, images and answer
are recognised. An optional column beside columns that we do not know is ignored unless
`DataSource.columns` maps it, because it may mean something else there (`choices` beside a free
answer). In JSONL, which is typed by hand, an unknown column is an error of its row.

A row that cannot be a problem becomes one `Skipped` line; the caller decides what follows.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from vlm_rl import ranks
from vlm_rl.data.images import ImageStore, digest
from vlm_rl.data.tables import BadRow, Reason, Table, open_table, parsed
from vlm_rl.errors import nearest
from vlm_rl.records import IMAGE_MARK, AnswerType, Problem
from vlm_rl.show.screen import track
from vlm_rl.verification.extraction import ANSWER_STYLES, boxes

OPTIONAL_COLUMNS = (
    "uid",
    "answer_type",
    "choices",
    "unit",
    "tolerance",
    "answer_style",
    "source",
    "task",
    "split",
    "meta",
)
MAX_TEXT_CHARS = 65_536
"""Characters that a column of a row may have: to tokenise a million takes ten seconds."""

COLUMNS = ("problem", "answer", "images", *OPTIONAL_COLUMNS)
_ALIASES = {
    "problem": ("problem", "question", "prompt", "query", "messages", "conversations"),
    # in sets with both, `image` is only a path and `decoded_image` the image
    "images": ("images", "decoded_image", "image"),
    # `ground_truth` comes last: beside `answer` it is the letter of a choice
    "answer": (
        "answer",
        "solution",
        "reward_model.ground_truth",
        "ground_truth",
        "messages",
        "conversations",
    ),
}
_ROLES = {"user": ("user", "human"), "assistant": ("assistant", "gpt")}
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold one, UTF-8 and tokenizers cannot


@dataclass(frozen=True)
class Skipped:
    """A row that is left out. `where` is its file and row, counted from 1 (in JSONL the line)."""

    where: str
    uid: str | None
    reason: Reason
    message: str


@dataclass(frozen=True)
class SourceRows:
    """The problems of a source and its rows that are left out; `mapping` is one line to show."""

    problems: list[Problem]
    skipped: list[Skipped]
    mapping: str


def read_problems(
    path: str,
    images: ImageStore,
    *,
    owners: dict[str, str],
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    max_text_chars: int = MAX_TEXT_CHARS,
) -> SourceRows:
    """Read and check the rows of one source, up to `limit` good ones.

    `owners` maps each uid read so far, over all sources, to its row; new ones are added. `split`
    names a split of a folder or hub data set, or the value of the `split` column of a file.
    `columns` maps our column names to theirs; a dot reaches into a struct. A row with more than
    `max_text_chars` characters in a column is left out. Raises ValueError if the
    source as a whole cannot be read: no such file, an ambiguous split, no column for the answer.
    """
    table = open_table(path, split)
    mapping = _map_columns(table, columns or {})
    known = _known_columns(mapping) if table.strict else None
    problems: list[Problem] = []
    skipped: list[Skipped] = []
    rows = track(
        table.rows,
        f"reading {table.label}",
        total=table.num_rows,
        transient=True,
        hidden=not ranks.is_zero(),
    )
    for where, row in rows:
        uid = None
        try:
            values = _values(row, mapping, known)
            if table.split is not None and values.get("split") != table.split:
                continue
            _check_texts(values, max_text_chars)
            problem = _problem(values, table.folder, images, path)
            uid = problem.uid
            if uid in owners:
                raise BadRow("duplicate uid", f"uid {uid!r} is already that of {owners[uid]}")
        except BadRow as error:
            skipped.append(Skipped(where, uid, error.reason, f"{where}: {error}"))
            continue
        owners[uid] = where
        problems.append(problem)
        if len(problems) == limit:
            break
    return SourceRows(problems, skipped, _mapping_line(table, mapping))


def _known_columns(mapping: Mapping[str, str]) -> frozenset[str]:
    return frozenset((*COLUMNS, *map(_root, (*mapping.values(), *chain(*_ALIASES.values())))))


def _values(
    row: object, mapping: Mapping[str, str], known: frozenset[str] | None
) -> dict[str, Any]:
    """Return our columns of a row; an empty one counts as absent. Any may be there if `known` is
    None. Raises BadRow."""
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, Mapping):
        raise BadRow("not an object", f"the row is of type {type(row).__name__}, not an object")
    if known is not None:
        _check_known(row, known)
    values = {name: _lookup(row, column) for name, column in mapping.items()}
    return {name: value for name, value in values.items() if not _empty(value)}


def _check_known(row: Iterable[str], known: frozenset[str]) -> None:
    for column in row:
        if column not in known:
            raise BadRow(
                "unknown column",
                f"unknown column {column!r}: rename it, map it by `columns`, or move it into "
                f"'meta'{nearest(column, COLUMNS)}",
            )


def _check_texts(values: Mapping[str, Any], limit: float) -> None:
    """Refuse long texts and halves of characters before anything reads them. Raises BadRow."""
    for name, value in values.items():
        texts = [*_texts(value)]
        if any(map(_SURROGATE.search, texts)):
            raise BadRow("wrong value", f"{name} holds half a character (a lone surrogate)")
        chars = 0 if name == "images" else sum(map(len, texts))
        if chars > limit:
            raise BadRow(
                "text too long",
                f"{name} has {chars} characters, above max_text_chars={limit}; shorten it, or "
                "raise that",
            )


def _texts(value: object) -> Iterator[str]:
    """Yield a value that is text, or all texts that are in it."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            stack += item


def _problem(values: dict[str, Any], folder: Path, images: ImageStore, source: str) -> Problem:
    question = _text(values.get("problem"), "problem", "no question", "user")
    answer = _answer(values.get("answer"))
    listed = values.get("images", [])
    checked = [
        images.add(item, folder) for item in (listed if isinstance(listed, list) else [listed])
    ]
    marks = question.count(IMAGE_MARK)
    # without images a mark is text, without marks the images come first: both are the encoder's
    if checked and marks not in (0, len(checked)):
        raise BadRow(
            "marks and images differ",
            f"{marks} {IMAGE_MARK} marks for {len(checked)} images; write one each, or none",
        )
    optional = {name: _optional(name, values[name]) for name in OPTIONAL_COLUMNS if name in values}
    content = "\0".join([question, *(image_digest for _, image_digest in checked), answer])
    return Problem(
        question=question,
        answer=answer,
        images=tuple(image for image, _ in checked),
        **{"uid": digest(content.encode()), "source": source} | optional,
    )


def _text(value: object, name: str, absent: Reason, role: Literal["user", "assistant"]) -> str:
    if isinstance(value, list):
        value = _turn(value, role)
    if _empty(value):
        raise BadRow(absent, f"{name} is missing or empty")
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{name} is of type {type(value).__name__}, not text")
    return value


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _turn(turns: list[Any], role: Literal["user", "assistant"]) -> object:
    """Return the one turn of `role`.

    A system turn is left out, because the run's template has its own.
    """
    if not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRow("wrong type", "a list here must be a chat of objects with role and content")
    contents = [
        turn.get("content", turn.get("value"))
        for turn in turns
        if turn.get("role", turn.get("from")) in _ROLES[role]
    ]
    if len(contents) > 1:
        raise BadRow("wrong value", f"the chat has {len(contents)} {role} turns; one is supported")
    content = contents[0] if contents else None
    if not isinstance(content, list):
        return content
    return "".join(
        IMAGE_MARK if part.get("type") == "image" else part.get("text") or "" for part in content
    )


def _answer(value: object) -> str:
    """Return a number as text, and of a worked solution only the last `<answer>` or box."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    text = _text(value, "answer", "no answer", "assistant")
    cut = _TAG.findall(text)[-1:] or [text]
    cut = list(boxes(cut[0]))[-1:] or cut
    return _text(cut[0].strip(), "answer", "no answer", "assistant")


def _optional(name: str, value: Any) -> Any:
    if name == "meta" and isinstance(value, str):
        value = parsed(value.encode())
        if isinstance(value, BadRow):
            raise value
        _check_texts({name: value}, math.inf)  # JSON in JSON may escape what it holds
    if name == "uid" and isinstance(value, int):
        value = str(value)
    expected: type[Any] = {"choices": list, "tolerance": dict, "meta": dict}.get(name, str)
    if not isinstance(value, expected):
        kinds = f"{type(value).__name__}, not {expected.__name__}"
        raise BadRow("wrong type", f"{name} is of type {kinds}")
    if name == "choices":
        return tuple(_text(choice, "a choice", "wrong value", "user") for choice in value)
    if name == "tolerance":
        # parquet gives every row all keys of the struct
        value = {rule: size for rule, size in value.items() if size is not None}
        if not all(isinstance(size, int | float) for size in value.values()):
            raise BadRow("wrong type", f"tolerance must hold numbers, got {value}")
    known = {"answer_type": get_args(AnswerType), "answer_style": ANSWER_STYLES}.get(name)
    if known is not None and value not in known:
        raise BadRow("wrong value", f"{name} {value!r} is unknown{nearest(value, known)}")
    return value


def _map_columns(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """Return our column names -> theirs."""
    mapping = ({} if table.split is None else {"split": "split"}) | dict(given)
    there_are = f"; there are {', '.join(table.columns)}"
    for name, column in mapping.items():
        if _root(column) not in table.columns:
            raise ValueError(f"{table.label}: no column {column!r} for {name}{there_are}")
    for name, aliases in _ALIASES.items():
        present = [alias for alias in aliases if _root(alias) in table.columns]
        if present:
            mapping.setdefault(name, present[0])
        elif name not in mapping and name != "images" and table.columns:
            raise ValueError(
                f"{table.label}: no column for {name} (any of {', '.join(aliases)}){there_are}; "
                f"name it with `columns`, as in {{{name}: {table.columns[0]}}}"
            )
    if table.strict or {*COLUMNS, *map(_root, mapping.values())}.issuperset(table.columns):
        mapping = {name: name for name in OPTIONAL_COLUMNS if name in table.columns} | mapping
    return mapping


def _mapping_line(table: Table, mapping: Mapping[str, str]) -> str:
    pairs = [ours if ours == theirs else f"{ours} <- {theirs}" for ours, theirs in mapping.items()]
    ignored = [column for column in table.columns if column not in map(_root, mapping.values())]
    return f"{table.label}: {', '.join(pairs)}; ignored: {', '.join(ignored) or 'nothing'}"


def _root(column: str) -> str:
    return column.split(".")[0]


def _lookup(row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for key in column.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
