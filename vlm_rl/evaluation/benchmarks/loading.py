"""Load a benchmark's problems from its hub data set or a copy on disk."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm_rl.data.images import ImageStore
from vlm_rl.data.tables import BadRow, Table, open_table
from vlm_rl.errors import nearest
from vlm_rl.evaluation.benchmarks.benchmark import (
    Benchmark,
    QuestionSet,
    TableSource,
    cluster_of,
)
from vlm_rl.evaluation.benchmarks.own_rows import OwnRows
from vlm_rl.evaluation.benchmarks.percentages import percent_type
from vlm_rl.records import Problem
from vlm_rl.show.log import Log
from vlm_rl.show.screen import say

_logger = Log(__name__)
_SHOWN = 5


def load(
    benchmark: QuestionSet,
    source: str | None = None,
    split: str | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    images: bool = True,
    max_bad_rows: int | None = None,
) -> list[Problem]:
    """Return the problems of a split (default: the benchmark's first) of the hub data set or of
    `source`, in their published order; rows of the user's own are read from where they are.

    `limit` keeps at most that many: whole clusters, drawn by `seed`, so that a smaller limit is a
    subset of a larger one. Without `images` none is looked for, to score responses made elsewhere.
    Rows that cannot be problems are named in a warning. Raises ValueError for more of them than
    `max_bad_rows` (default: the benchmark's known flaws), for a missing column, an unknown split,
    and an id that occurs twice.
    """
    if isinstance(benchmark, OwnRows):
        problems = _own(benchmark, max_bad_rows or 0)
    else:
        assert isinstance(benchmark, Benchmark), "there is no other kind of questions"
        split = _split(benchmark, source, split)
        problems = _published(benchmark, source, split, images, max_bad_rows)
    _check_ids(benchmark, problems)
    return problems if limit is None else _limited(problems, limit, seed)


def _own(rows: OwnRows, max_bad_rows: int) -> list[Problem]:
    """Return the problems of rows of the user's own, and say what each column is."""
    read = rows.read(ImageStore())
    for line in (f"{read.mapping}; {len(read.problems)} problems", *read.lines):
        say(line)
    report_bad(rows.name, [row.message for row in read.skipped], max_bad_rows)
    return read.problems


def _published(
    benchmark: Benchmark, source: str | None, split: str, images: bool, max_bad_rows: int | None
) -> list[Problem]:
    problems: list[Problem] = []
    bad: list[str] = []
    store = ImageStore() if images else None
    for table in benchmark.tables(source or benchmark.hub_id, split):
        for where, problem in _problems(benchmark, table, store):
            if isinstance(problem, BadRow):
                bad.append(f"{where}: {problem}")
            else:
                problems.append(replace(problem, task=benchmark.name, split=split))
    report_bad(benchmark.name, bad, benchmark.flawed_rows if max_bad_rows is None else max_bad_rows)
    _report_frames(benchmark, problems, store)
    return problems


def problem_of(
    benchmark: Benchmark, row: Mapping[str, Any], images: tuple[bytes | Path, ...] = ()
) -> Problem:
    """Return the problem of a raw row, whichever of their published names the columns have.

    A number that is asked for as a percentage has the type percent. Raises BadRow.
    """
    values = _renamed(benchmark, row)
    if _blank(values.get("answer")):
        raise BadRow("no answer", "the answer is empty")
    try:
        problem = benchmark.problem(values, images)
    except (LookupError, TypeError, AttributeError, SyntaxError) as error:
        raise BadRow("wrong value", f"{type(error).__name__}: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, BadRow) else BadRow("wrong value", str(error)) from error
    return replace(problem, answer_type=percent_type(problem))


def rows_of(benchmark: Benchmark, source: TableSource) -> Iterator[tuple[Table, str, object]]:
    """Yield the raw rows of a table with the table and their place; a row that cannot be read is a
    BadRow.

    Each gets the columns of `source` and `row`, its place in the table, for data sets without ids.
    Raises ValueError for a table without the benchmark's columns.
    """
    table = open_table(source.source, source.split, source.config)
    _check_columns(benchmark, table, source)
    by_split = table.split is not None and "split" in table.columns
    for number, (where, row) in enumerate(table.rows):
        if not isinstance(row, Mapping):
            kind = type(row).__name__
            bad = BadRow("not an object", f"the row is of type {kind}, not an object")
            yield table, where, row if isinstance(row, BadRow) else bad
        elif not by_split or row.get("split") == table.split:
            yield table, where, {**row, **source.columns, "row": number}


def _split(benchmark: Benchmark, source: str | None, split: str | None) -> str:
    """Return the split to read. A local copy may name its splits as it likes; its table refuses one
    that it lacks."""
    if source is None and split is not None and split not in benchmark.splits:
        known = ", ".join(benchmark.splits)
        raise ValueError(
            f"{benchmark.name} has the splits {known}, got split={split!r}"
            f"{nearest(split, benchmark.splits)}"
        )
    return split or benchmark.splits[0]


def _problems(
    benchmark: Benchmark, source: TableSource, store: ImageStore | None
) -> Iterator[tuple[str, Problem | BadRow]]:
    for table, where, row in rows_of(benchmark, source):
        try:
            yield where, _problem(benchmark, table, row, store)
        except BadRow as error:
            yield where, error


def _problem(benchmark: Benchmark, table: Table, row: object, store: ImageStore | None) -> Problem:
    if isinstance(row, BadRow):
        raise row
    assert isinstance(row, Mapping), "rows_of yields nothing else"
    images = () if store is None else _images(benchmark, table.folder, row, store)
    problem = problem_of(benchmark, row, images)
    style = problem.answer_style or benchmark.answer_style
    return replace(problem, answer_style=style, source=table.label)


def images_of(benchmark: Benchmark, row: Mapping[str, Any]) -> Sequence[object]:
    """Return the images of a raw row, as they are stored; raises BadRow."""
    try:
        return benchmark.images(_renamed(benchmark, row))
    except (LookupError, TypeError, AttributeError, SyntaxError, ValueError) as error:
        raise (
            error
            if isinstance(error, BadRow)
            else BadRow("wrong value", f"{type(error).__name__}: {error}")
        ) from error


def _renamed(benchmark: Benchmark, row: Mapping[str, Any]) -> dict[str, Any]:
    return {benchmark.aliases.get(name, name): value for name, value in row.items()}


def _blank(answer: object) -> bool:
    """Whether a cell is missing, which tables write as nothing, white space or NaN."""
    if isinstance(answer, float):
        return not math.isfinite(answer)
    return answer is None or (isinstance(answer, str) and not answer.strip())


def _images(
    benchmark: Benchmark, folder: Path, row: Mapping[str, Any], store: ImageStore
) -> tuple[bytes | Path, ...]:
    return tuple(store.add(item, folder)[0] for item in images_of(benchmark, row))


def _check_columns(benchmark: Benchmark, table: Table, source: TableSource) -> None:
    columns = {benchmark.aliases.get(name, name) for name in table.columns} | {*source.columns}
    for column in benchmark.columns:
        if column not in columns:
            raise ValueError(
                f"{table.label}: no column {column!r} that {benchmark.name} needs; there are "
                f"{', '.join(table.columns) or 'none'}"
            )


def _report_frames(
    benchmark: Benchmark, problems: Sequence[Problem], store: ImageStore | None
) -> None:
    """Say how many problems have images of which the first frame alone is shown."""
    number = sum(any(store.has_frames(i) for i in p.images) for p in problems) if store else 0
    if number:
        _logger.warning(
            "%s: %d rows: an image has several frames, of which the first is shown",
            benchmark.name,
            number,
        )


def report_bad(name: str, bad: Sequence[str], allowed: int) -> None:
    """Warn of rows that cannot be problems. Raises ValueError for more than are `allowed`."""
    if not bad:
        return
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    message = f"{len(bad)} rows cannot be problems: {'; '.join(bad[:_SHOWN])}{more}"
    if len(bad) > allowed:
        raise ValueError(
            f"{name}: {message}; repair them, or allow them with max_bad_rows={len(bad)}"
        )
    _logger.warning("%s: %s", name, message)


def _check_ids(benchmark: QuestionSet, problems: Sequence[Problem]) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.uid in seen:
            raise ValueError(
                f"{benchmark.name}: the id {problem.uid!r} occurs twice in {problem.source}; "
                "remove one of the rows, or responses cannot be told apart"
            )
        seen.add(problem.uid)
    if not problems:
        raise ValueError(f"{benchmark.name}: there is no problem; check the data and the split")


def _limited(problems: list[Problem], limit: int, seed: int) -> list[Problem]:
    sizes: dict[str, int] = {}
    for problem in problems:
        sizes[cluster_of(problem)] = sizes.get(cluster_of(problem), 0) + 1
    kept: set[str] = set()
    total = 0
    for cluster in sorted(sizes, key=lambda name: _lot(name, seed)):
        total += sizes[cluster]
        if total > limit:
            break
        kept.add(cluster)
    if not kept:
        raise ValueError(
            f"limit={limit} is too small: a question has up to {max(sizes.values())} versions, "
            "which stay together; raise it"
        )
    return [problem for problem in problems if cluster_of(problem) in kept]


def _lot(cluster: str, seed: int) -> bytes:
    """Return a draw that does not depend on which other clusters there are."""
    return hashlib.sha256(f"{seed}:{cluster}".encode()).digest()
