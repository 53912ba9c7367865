"""The script of a data set: where its rows are, which columns they have, what these mean.

A script is a subclass of `Converter`. It turns one raw row into a `Draft` or raises `Drop`. The
code that all sets share (images, marks, repeats, overlap, files) is in `data_prep.convert`.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets

from vlm_rl.data.tables import Table, open_table
from vlm_rl.records import GoldType

_FILES = (".jsonl", ".json", ".parquet")


class Drop(ValueError):
    """A row that is left out. The message is the reason under which it is counted."""


@dataclass(frozen=True)
class Draft:
    """A problem as its set has it. `images` are as stored: bytes, {"bytes", "path"} or a path.

    `id` is the set's own, unique within a split; None if it has none.
    """

    question: str
    answer: str
    images: Sequence[object] = ()
    id: str | None = None
    answer_type: GoldType | None = None
    choices: Sequence[str] | None = None
    unit: str | None = None
    tolerance: Mapping[str, float] | None = None
    task: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Opened tables, all with the same columns, and the commit of a hub data set."""

    tables: Sequence[Table]
    revision: str | None = None


class Converter(ABC):
    """One data set. A script is one subclass."""

    name: ClassVar[str]
    hub_id: ClassVar[str]
    split: ClassVar[str] = "train"
    """The default of `--split`."""
    layouts: ClassVar[tuple[tuple[str, ...], ...]]
    """The required columns, one tuple for each published form of the set."""
    configs: ClassVar[tuple[str | None, ...]] = (None,)
    """Names of the hub's configurations, all of which are read."""
    flag: ClassVar[str | None] = None
    """The option that selects this converter instead of its script's first."""
    keeps_repeats: ClassVar[bool] = False
    """True for a benchmark, which stays as it was published."""

    @abstractmethod
    def draft(self, row: Mapping[str, Any]) -> Draft:
        """Return the problem of a row that has all columns of a layout. Raises Drop."""

    def open(self, source: str, split: str) -> Source:
        """Open a split of `source`, a hub id, folder or file. Raises ValueError.

        In a folder, `<split>.jsonl`, `.json` or `.parquet` comes first. A file is read whole.
        """
        path = Path(source).expanduser()
        files = [path] if path.is_file() else [path / f"{split}{suffix}" for suffix in _FILES]
        for file in files:
            if file.is_file():
                return Source([open_table(str(file))])
        if path.is_dir():
            return Source([open_table(source, split)])
        tables = [open_table(source, split, config) for config in self.configs]
        return Source(tables, revision_of(source, self.configs[0]))

    def check_columns(self, table: Table) -> None:
        """Raise ValueError with the first missing column and all columns of the table."""
        missing = [
            [column for column in layout if column not in table.columns] for layout in self.layouts
        ]
        nearest = min(missing, key=len)
        if nearest:
            needed = ", or ".join(" ".join(layout) for layout in self.layouts)
            raise ValueError(
                f"{table.label}: no column {nearest[0]!r}; {self.name} has the columns {needed}; "
                f"there are {' '.join(table.columns) or 'none'}"
            )


def revision_of(hub_id: str, config: str | None) -> str | None:
    """Return the commit that `datasets` loads of a hub data set; None if it is not on the hub."""
    try:
        commit = datasets.load_dataset_builder(hub_id.partition(":")[0], config).hash
    except (OSError, ValueError):
        return None
    return commit if commit and re.fullmatch("[0-9a-f]{40}", commit) else None


def text(value: object) -> str:
    """Return the text of a cell, "" for None and for NaN, which tables write for it.

    Raises Drop for what is neither text nor a number.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Drop(f"a cell of type {type(value).__name__} where text should be")
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    # not form feeds and the like: at the start of an answer they are a damaged LaTeX command
    return str(value).strip(" \t\r\n")


def items(value: object) -> list[object]:
    """Return what a cell holds as a list: nothing, one thing, or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def struct(value: object) -> Mapping[str, Any]:
    """Return a cell that has fields. Raises Drop for any other."""
    if not isinstance(value, Mapping):
        raise Drop(f"a cell of type {type(value).__name__} where fields should be")
    return value
