"""Raw rows of a data set in any form that it may be stored in, each with its place.

A `.jsonl`, `.json` (a list of rows, or an object of rows by id), `.csv`, `.tsv`, `.parquet` or
`.arrow` file; a WebDataset `.tar`, or a folder of them; a folder saved by `datasets`, or of parquet
files; a hub id `owner/name[:split]`.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.ipc  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from vlm_rl.data.tar_samples import suffix, tar_samples, with_members

_MOST_CHARS = 600
_BUFFER = 2**20
_LARGEST_CELL = 2**28
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

Reason = Literal[
    "bad json",
    "not an object",
    "unknown column",
    "wrong type",
    "wrong value",
    "no question",
    "no answer",
    "no image file",
    "broken image",
    "image not loaded",
    "options not shown",
    "turn not used",
    "marks and images differ",
    "duplicate uid",
    "text too long",
    "not encodable",
    "prompt too long",
]


class BadRow(ValueError):
    """A row that cannot be a problem; `uid` is its name if it is known by then."""

    def __init__(self, reason: Reason, message: str, uid: str | None = None) -> None:
        if len(message) > _MOST_CHARS:  # of a value in it; what to do stands at the end
            message = f"{message[: _MOST_CHARS // 2]} ... {message[-_MOST_CHARS // 2 :]}"
        super().__init__(message)
        self.reason = reason
        self.uid = uid


@dataclass(frozen=True)
class Table:
    """Raw rows, each with its place.

    `split` is the value of the rows' own `split` column to keep. `strict` tables are typed by hand.
    `num_rows` is for a progress bar, None if only reading tells it.
    """

    label: str
    folder: Path
    columns: Sequence[str]
    rows: Iterable[tuple[str, object]]
    split: str | None = None
    strict: bool = False
    num_rows: int | None = None


def open_table(source: str, split: str | None = None, config: str | None = None) -> Table:
    """Open `source` for lazy reading; images come as the bytes that are stored.

    `split` names a split of a folder or hub data set, or the value of the `split` column of a file.
    `config` picks one configuration of a hub data set that has several. Raises ValueError if the
    source does not exist or cannot be read.
    """
    path = Path(source).expanduser()
    kind = ".tgz" if path.name.endswith(".tar.gz") else path.suffix
    if kind in _READERS:
        if not path.is_file():
            raise ValueError(f"no data file {path}")
        return _READERS[kind](path, split)
    if path.is_dir() and (shards := sorted(path.glob("*.tar*"))):
        return _shards(path, shards, split)
    if path.is_dir():
        return _hugging_face(str(path), path, split, config)
    name, _, suffix = source.partition(":")
    if not _HUB_ID.fullmatch(name):
        kinds = ", ".join(_READERS)
        raise ValueError(f"{source} is not a {kinds} file, folder, or hub id owner/name")
    return _hugging_face(name, Path(), split or suffix or None, config)


def _jsonl(path: Path, split: str | None) -> Table:
    # parsed twice: all rows as objects would be most of the memory that a start needs
    columns: dict[str, None] = {}
    num_rows = 0
    for _, row in _json_lines(path):
        num_rows += 1
        if isinstance(row, dict):
            columns.update(dict.fromkeys(row))
    rows = _json_lines(path)
    return Table(str(path), path.parent, list(columns), rows, split, strict=True, num_rows=num_rows)


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}, row {number}", parsed(line)


def _json(path: Path, split: str | None) -> Table:
    loaded = parsed(path.read_bytes())
    if isinstance(loaded, dict):
        loaded = [
            {"id": key} | row if isinstance(row, dict) else row for key, row in loaded.items()
        ]
    if not isinstance(loaded, list):
        shape = "it is neither a list of rows nor an object of rows"
        reason = loaded if isinstance(loaded, BadRow) else shape
        raise ValueError(f"{path} cannot be read: {reason}")
    columns = dict.fromkeys(name for row in loaded if isinstance(row, dict) for name in row)
    rows = [(f"{path}, row {number}", row) for number, row in enumerate(loaded, 1)]
    return Table(str(path), path.parent, list(columns), rows, split, num_rows=len(rows))


def _csv(path: Path, split: str | None) -> Table:
    # a cell may hold an image in base64
    csv.field_size_limit(_LARGEST_CELL)
    with path.open(newline="", encoding="utf-8-sig") as lines:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        reader = csv.DictReader(lines, delimiter=delimiter, restkey="cells without a column")
        rows = [(f"{path}, row {number}", row) for number, row in enumerate(reader, 1)]
    columns = list(reader.fieldnames or ())
    return Table(str(path), path.parent, columns, rows, split, num_rows=len(rows))


def parsed(line: bytes) -> object:
    """Parse a line of JSON; return BadRow if it is invalid."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # bad syntax, bad UTF-8, too deep
        return BadRow("bad json", f"not valid JSON: {error}")


def _parquet(path: Path, split: str | None) -> Table:
    try:
        # a writer may put all rows into one group; unbuffered, it would be read as a whole
        file = pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    rows = _numbered(file.iter_batches(batch_size=64), str(path))
    columns, num_rows = file.schema_arrow.names, file.metadata.num_rows
    return Table(str(path), path.parent, columns, rows, split, num_rows=num_rows)


def _arrow(path: Path, split: str | None) -> Table:
    """Open what `datasets` keeps in its cache and folders, a stream, or else a file of batches."""
    source = pyarrow.memory_map(str(path))
    try:
        stream = pyarrow.ipc.open_stream(source)
        schema, batches = stream.schema, iter(stream)
    except pyarrow.ArrowInvalid:
        try:
            file = pyarrow.ipc.open_file(source)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        schema = file.schema
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    small = (
        part for batch in batches for part in pyarrow.Table.from_batches([batch]).to_batches(64)
    )
    return Table(str(path), path.parent, schema.names, _numbered(small, str(path)), split)


def _tar(path: Path, split: str | None) -> Table:
    return _shards(path, [path], split)


def _shards(source: Path, shards: Sequence[Path], split: str | None) -> Table:
    """Open the samples of tars. Those of a split have its name in theirs."""
    if split is not None and source.is_dir():
        shards = [shard for shard in shards if split in shard.name]
        if not shards:
            raise ValueError(f"{source} has no tar with {split!r} in its name; got split={split}")
        split = None
    columns: dict[str, None] = {}
    num_rows = 0
    for _, row in _samples(shards, only_text=True):
        num_rows += 1
        if isinstance(row, dict):
            columns.update(dict.fromkeys(row))
    folder = source if source.is_dir() else source.parent
    return Table(str(source), folder, list(columns), _samples(shards), split, num_rows=num_rows)


def _samples(shards: Sequence[Path], *, only_text: bool = False) -> Iterator[tuple[str, object]]:
    for shard in shards:
        for number, (key, members) in enumerate(tar_samples(shard, only_text=only_text), 1):
            rows = [one for name, one in members.items() if suffix(name) == "json"]
            row = parsed(rows[0] or b"") if len(rows) == 1 else None
            if row is None:
                row = BadRow("not an object", f"the sample has {len(rows)} .json members, not one")
            if isinstance(row, dict):
                row = with_members(row, members)
            yield f"{shard}, row {number} ({key})", row


def _hugging_face(name: str, folder: Path, split: str | None, config: str | None) -> Table:
    import datasets  # takes long, and a file needs none of it

    saved = any(Path(name, file).exists() for file in ("dataset_dict.json", "state.json"))
    try:
        loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: no data set there or on the hub: {error}") from error
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}
    chosen = next(iter(splits)) if split is None and len(splits) == 1 else split
    if chosen not in splits:
        raise ValueError(f"{name} has the splits {', '.join(splits)}; got split={split}")
    loaded, name = splits[chosen], f"{name}:{chosen}"
    # as Arrow, images come as stored bytes and are not decoded
    batches = loaded.with_format("arrow").iter(batch_size=64)
    rows = _numbered(batches, name)
    return Table(name, folder, loaded.column_names, rows, num_rows=len(loaded))


def _numbered(batches: Iterable[Any], label: str) -> Iterator[tuple[str, object]]:
    rows = (row for batch in batches for row in batch.to_pylist())
    return ((f"{label}, row {number}", row) for number, row in enumerate(rows, 1))


_READERS = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".tar": _tar,
    ".tgz": _tar,
}
