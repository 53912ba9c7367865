"""Rows on disk or on the hub -> `Problem` records.

The form of a row is recognised by its columns (`vlm_rl.data.forms`), or named by the user. What it
has beyond a question, images, options and an answer is kept in `meta`. A column of JSONL, which is
typed by hand, that is close to one of our names is an error of its row.

A row that cannot be a problem becomes one `Skipped` line; the caller decides what follows.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vlm_rl import ranks
from vlm_rl.data.forms.form import root
from vlm_rl.data.forms.plan import COLUMNS, Naming, RowPlan, plan_of
from vlm_rl.data.images import ImageStore
from vlm_rl.data.problems import Notes, count, looked_up, problem_of
from vlm_rl.data.tables import BadRow, Reason, Table, open_table
from vlm_rl.records import Problem
from vlm_rl.show.screen import track

__all__ = ["COLUMNS", "MAX_TEXT_CHARS", "Skipped", "SourceRows", "read_problems"]

MAX_TEXT_CHARS = 65_536
"""Characters that a column of a row may have: to tokenise a million takes ten seconds."""

_TOO_DEEP = BadRow("wrong type", "its lists and objects are nested too deeply")


@dataclass(frozen=True)
class Skipped:
    """A row that is left out. `where` is its file and row, counted from 1 (in JSONL the line)."""

    where: str
    uid: str | None
    reason: Reason
    message: str


@dataclass(frozen=True)
class SourceRows:
    """The problems of a source and its rows that are left out.

    `mapping` is one line to show: the columns and what they are. `notes` count what was decided
    about the rows.
    """

    problems: list[Problem]
    skipped: list[Skipped]
    mapping: str
    notes: Notes = field(default_factory=Notes)

    @property
    def lines(self) -> list[str]:
        """What to print of the rows of a source before training."""
        notes, left_out = self.notes, Counter(row.reason for row in self.skipped)
        counted = ", ".join(f"{number} {reason}" for reason, number in left_out.most_common())
        images = ", ".join(f"{n} in {number}" for n, number in sorted(notes.num_images.items()))
        first = (
            f"{len(self.problems) + len(self.skipped)} rows read, {len(self.skipped)} left out"
            f"{f' ({counted})' if counted else ''}; images per row: {images or 'none'}; options "
            f"shown in {notes.num_options}; a system turn of its own in {notes.num_systems}"
        )
        return [first, *(f"{number} rows: {note}" for note, number in notes.counts.most_common())]


def read_problems(
    path: str,
    images: ImageStore,
    *,
    owners: dict[str, str],
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    max_text_chars: int = MAX_TEXT_CHARS,
    form: str | None = None,
    ignore: Collection[str] = (),
    image_folder: str | None = None,
    defaults: Mapping[str, str] | None = None,
) -> SourceRows:
    """Read and check the rows of one source, up to `limit` good ones.

    `owners` maps each uid read so far, over all sources, to its row; new ones are added. `split`
    names a split of a folder or hub data set, or the value of the `split` column of a file.
    `columns` maps our column names to theirs; a dot reaches into a struct. `form` is one of
    `vlm_rl.data.forms`, by default what the columns say. Columns in `ignore` are as if they were
    not there. Paths of images begin in `image_folder`, by default the folder of the file.
    `defaults` are values of our columns for rows that have none. A row
    with more than `max_text_chars` characters in a column is left out. Raises ValueError if the
    source as a whole cannot be read: no such file, an ambiguous split, no column for the answer.
    """
    table = open_table(path, split)
    naming = Naming(columns or {}, form, ignore)
    plan = _plan_of_table(table, naming)
    folder = table.folder if image_folder is None else Path(image_folder).expanduser()
    plans, notes = _Plans(table, naming), Notes()
    read = partial(
        problem_of,
        folder=folder,
        images=images,
        source=path,
        max_text_chars=max_text_chars,
        notes=notes,
        defaults=defaults or {},
    )
    problems: list[Problem] = []
    skipped: list[Skipped] = []
    for where, row in _shown(table):
        try:
            own = plans.of(row)
            if not plans.chosen(row, own):
                continue
            if own.misspelt is not None:
                raise _misspelt(*own.misspelt)
            problem = read(row, own)
            _check_owner(problem, owners, own)
        except (BadRow, RecursionError) as error:
            bad = error if isinstance(error, BadRow) else _TOO_DEEP
            skipped.append(Skipped(where, bad.uid, bad.reason, f"{where}: {bad}"))
            continue
        owners[problem.uid] = where
        count(problem, own, notes)
        problems.append(problem)
        if len(problems) == limit:
            break
    return SourceRows(problems, skipped, _mapping_line(table, plan, naming, notes), notes)


def _shown(table: Table) -> Iterable[tuple[str, Any]]:
    """Return the rows with a bar in a terminal."""
    return track(
        table.rows,
        f"reading {table.label}",
        total=table.num_rows,
        transient=True,
        hidden=not ranks.is_zero(),
    )


@dataclass(frozen=True)
class _Plans:
    """The plan of each set of columns, made once, and which rows are of the split."""

    table: Table
    naming: Naming
    known: dict[tuple[str, ...], RowPlan] = field(default_factory=dict)

    def of(self, row: object) -> RowPlan:
        if not isinstance(row, dict):
            raise _no_object(row)
        names = tuple(row)
        if names not in self.known:
            self.known[names] = _plan(names, self.table, self.naming)
        return self.known[names]

    def chosen(self, row: Mapping[str, Any], plan: RowPlan) -> bool:
        split = self.table.split
        return split is None or looked_up(row, dict(plan.columns)["split"]) == split


def _plan(names: tuple[str, ...], table: Table, naming: Naming) -> RowPlan:
    return plan_of(names, naming, strict=table.strict, split=table.split is not None)


def _plan_of_table(table: Table, naming: Naming) -> RowPlan:
    """Return the plan of all columns together. Raises ValueError if a table cannot be read by any
    plan, or lacks a column that the user names."""
    there_are = f"; there are {', '.join(table.columns)}"
    named = ({} if table.split is None else {"split": "split"}) | dict(naming.columns)
    for name, column in named.items():
        if root(column) not in table.columns:
            raise ValueError(f"{table.label}: no column {column!r} for {name}{there_are}")
    for column in naming.ignore:
        if column not in (*table.columns, "system"):
            raise ValueError(f"{table.label}: no column {column!r} to ignore{there_are}")
    plan = _plan(tuple(table.columns), table, naming)
    found = dict(plan.columns)
    for name, aliases in (("problem", plan.form.problem), ("answer", plan.form.answer)):
        if name not in found and table.columns:
            raise ValueError(
                f"{table.label}: no column for {name} (any of {', '.join(aliases)}){there_are}; "
                f"name it with `columns`, as in {{{name}: {table.columns[0]}}}"
            )
    return plan


def _no_object(row: object) -> BadRow:
    if isinstance(row, BadRow):
        return row
    return BadRow("not an object", f"the row is of type {type(row).__name__}, not an object")


def _misspelt(column: str, close: str) -> BadRow:
    return BadRow(
        "unknown column",
        f"unknown column {column!r}: rename it, map it by `columns`, or leave it out by `ignore`; "
        f"did you mean {close}?",
    )


def _check_owner(problem: Problem, owners: Mapping[str, str], plan: RowPlan) -> None:
    owner = owners.get(problem.uid)
    if owner is None:
        return
    if "uid" in dict(plan.columns):
        message = f"uid {problem.uid!r} is already that of {owner}"
    else:
        message = f"it has the question, images and answer of {owner}; remove it, or give both uids"
    raise BadRow("duplicate uid", message, problem.uid)


def _mapping_line(table: Table, plan: RowPlan, naming: Naming, notes: Notes) -> str:
    """Say what each column is. If rows have several sets of columns, it is that of all together."""
    pairs = plan.pairs()
    if notes.num_options and plan.options:
        pairs["choices"] = " + ".join(plan.options)
    shown = [ours if ours == theirs else f"{ours} <- {theirs}" for ours, theirs in pairs.items()]
    ignored = [name for name in plan.kept if not (notes.num_options and name in plan.options)]
    kept = f"{', '.join(ignored)} (kept in meta)" if ignored else "nothing"
    left = f"; left out: {', '.join(naming.ignore)}" if naming.ignore else ""
    forms = " and ".join(notes.forms) or plan.why
    return f"{table.label}: {forms}: {', '.join(shown)}; ignored: {kept}{left}"
