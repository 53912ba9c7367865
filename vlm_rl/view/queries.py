"""What pages ask of an index: problems, groups, completions, and texts out of the run's files."""

import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlm_rl.records import Verdict
from vlm_rl.show.json_text import json_text
from vlm_rl.view.folder import RunFolder
from vlm_rl.view.index import VERDICTS, RolloutIndex, lines_of, storable

PER_PAGE = 50
SEARCHED_BYTES = 64 * 2**20
"""How much text one request searches; the page offers to go on."""

_ORDERS = {
    "accuracy": "accuracy, uid",
    "-accuracy": "accuracy DESC, uid",
    "change": "change IS NULL, change, uid",
    "-change": "change IS NULL, change DESC, uid",
    "length": "length, uid",
    "-length": "length DESC, uid",
    "visits": "visits, uid",
    "-visits": "visits DESC, uid",
    "last": "last_step, uid",
    "-last": "last_step DESC, uid",
}
_GONE = (OSError, EOFError, zlib.error)
"""What reading a file raises that the run has deleted or is writing anew."""

Written = dict[str, Any]


@dataclass(frozen=True)
class Filter:
    """What completions to list: all fields are optional. `before` goes on behind a group."""

    text: str = ""
    source: str = ""
    verdict: str = ""
    shortest: int | None = None
    longest: int | None = None
    step: int | None = None
    before: int | None = None


class Found(NamedTuple):
    """Completions, and the group behind which a search goes on; None at the end."""

    rows: list[Written]
    go_on: int | None
    searched_to_step: int | None


def problems(
    index: RolloutIndex, *, text: str, source: str, order: str, page: int
) -> tuple[list[Written], int]:
    """Return a page of the problems, and how many there are. An unknown order is the first."""
    where, values = ["num IS NOT NULL"], []
    if text:
        where.append("(question LIKE ? ESCAPE '!' OR uid LIKE ? ESCAPE '!' OR answer = ?)")
        like = "%" + re.sub("[!%_]", r"!\g<0>", text) + "%"
        values += [like, like, text]
    if source:
        where.append("source = ?")
        values.append(source)
    condition = " AND ".join(where)
    by = _ORDERS.get(order, _ORDERS["accuracy"])
    with closing(index.connect()) as base:
        (total,) = base.execute(
            f"SELECT count(*) FROM problems WHERE {condition}", values
        ).fetchone()
        rows = base.execute(
            f"SELECT * FROM problems WHERE {condition} ORDER BY {by} LIMIT ? OFFSET ?",
            (*values, PER_PAGE, page * PER_PAGE),
        )
        return [dict(row) for row in rows], total


def sources(index: RolloutIndex) -> list[str]:
    """Return the data sets that the problems came from."""
    with closing(index.connect()) as base:
        rows = base.execute("SELECT DISTINCT source FROM problems ORDER BY source LIMIT 200")
        return [row[0] for row in rows]


def problem(index: RolloutIndex, uid: str) -> Written | None:
    """Return a problem with its `visits`, groups in the order of steps."""
    with closing(index.connect()) as base:
        row = base.execute("SELECT * FROM problems WHERE uid = ?", (uid,)).fetchone()
        if row is None:
            return None
        groups = base.execute("SELECT * FROM groups WHERE problem = ? ORDER BY id", (row["id"],))
        return {**row, "images": json.loads(row["images"]), "visits": [dict(g) for g in groups]}


def group(index: RolloutIndex, number: int) -> list[Written]:
    """Return the completions of a group as they stand in the file, with `col` and `group`."""
    with closing(index.connect()) as base:
        rows = _places(base, "c.grp = ?", (number,))
        return _texts(index.folder, rows)


def completion(index: RolloutIndex, number: int, column: int) -> Written | None:
    """Return one completion of a group, with `tokens` if the run has written them."""
    with closing(index.connect()) as base:
        rows = _places(base, "c.grp = ? AND c.col = ?", (number, column))
        found = _texts(index.folder, rows)
    if not found:
        return None
    return {**found[0], "tokens": _tokens(index.folder, rows[0]["name"], rows[0]["line"])}


def completions(index: RolloutIndex, wanted: Filter) -> Found:
    """Return completions, newest steps first; a text is searched in the files of the run."""
    with closing(index.connect()) as base:
        condition, values = _condition(wanted)
        if wanted.text:
            return _search(index, base, wanted, condition, values)
        rows = _places(base, condition, values, PER_PAGE + 1)
        go_on = rows[-1]["grp"] + 1 if len(rows) > PER_PAGE else None
        if go_on is not None:  # whole groups, so that a page can go on behind one
            last = rows[-1]["grp"]
            whole = [row for row in rows if row["grp"] != last]
            rows, go_on = (whole, last + 1) if whole else (rows, last)
        return Found(_texts(index.folder, rows), go_on, None)


def _condition(wanted: Filter) -> tuple[str, list[Any]]:
    """Return the condition of a filter, on whole groups first: there are fewer of them."""
    parts: list[str] = []
    values: list[Any] = []

    def add(part: str, *of_part: Any) -> None:
        parts.append(part)
        values.extend(of_part)

    if wanted.source:
        add("g.problem IN (SELECT id FROM problems WHERE source = ?)", wanted.source)
    if wanted.verdict in VERDICTS:
        code = VERDICTS.index(Verdict(wanted.verdict))
        add("g.verdicts & ? AND c.verdict = ?", 1 << code, code)
    if wanted.shortest is not None:
        add("g.longest >= ? AND c.length >= ?", wanted.shortest, wanted.shortest)
    if wanted.longest is not None:
        add("g.shortest <= ? AND c.length <= ?", wanted.longest, wanted.longest)
    if wanted.step is not None:
        add("g.id BETWEEN ? AND ?", wanted.step << 32, (wanted.step << 32) | 0xFFFFFFFF)
    if wanted.before is not None:
        add("g.id < ?", wanted.before)
    return " AND ".join(parts) or "1", values


def _places(
    base: sqlite3.Connection, condition: str, values: Sequence[Any], limit: int = 4096
) -> list[sqlite3.Row]:
    """Return where completions stand, newest groups first."""
    return base.execute(
        f"""SELECT c.*, g.first_line + c.col AS line, g.step, f.name
        FROM groups g CROSS JOIN completions c ON c.grp = g.id CROSS JOIN files f ON f.id = g.file
        WHERE {condition} ORDER BY g.id DESC, c.col LIMIT ?""",
        (*values, limit),
    ).fetchall()


def _texts(folder: RunFolder, rows: Sequence[sqlite3.Row]) -> list[Written]:
    """Read completions; those whose file has gone since are left out."""
    found = []
    by_file: dict[str, list[sqlite3.Row]] = {}
    for row in rows:
        by_file.setdefault(row["name"], []).append(row)
    for name, of_file in by_file.items():
        path = folder.file("rollouts", name)
        if path is None:
            continue
        with (
            suppress(*_GONE),
            gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file,
        ):
            for row in of_file:
                file.seek(row["offset"])
                if (record := _record(file.read(row["bytes"]))) is not None:
                    place = {name: row[name] for name in ("step", "line", "col")}
                    found.append({**record, **place, "group": row["grp"]})
    return found


def _record(line: bytes) -> Written | None:
    """Parse a line of a completion; None if the file was written anew since it was indexed.

    What an older run has not written is empty.
    """
    try:
        row = json.loads(line)
        known = {name: row[name] for name in ("uid", "question", "answer", "completion", "verdict")}
        later = {name: row.get(name, "") for name in ("rule", "finish_reason")}
        advantage = None if row["advantage"] is None else float(row["advantage"])
        return {
            **{name: storable(str(text)) for name, text in (known | later).items()},
            "reward": float(row["reward"]),
            "terms": {str(name): float(value) for name, value in row["terms"].items()},
            "length_tokens": int(row["length_tokens"]),
            "advantage": advantage,
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _search(
    index: RolloutIndex,
    base: sqlite3.Connection,
    wanted: Filter,
    condition: str,
    values: Sequence[Any],
) -> Found:
    """Search the files, newest first: of a text of any case, as it stands in JSON."""
    needle = json_text(wanted.text)[1:-1].encode().lower()
    files = base.execute(
        """SELECT f.id, f.name, f.step, min(g.id) AS first FROM files f JOIN groups g
        ON g.file = f.id WHERE g.id < ? GROUP BY f.id ORDER BY g.id DESC""",
        (2**62 if wanted.before is None else wanted.before,),
    ).fetchall()
    found: list[Written] = []
    searched = 0
    for file in files:
        if wanted.step is not None and file["step"] != wanted.step:
            continue
        if searched >= SEARCHED_BYTES or len(found) >= PER_PAGE:
            return Found(found, file["first"] + (1 << 20), file["step"])
        path = index.folder.file("rollouts", file["name"])
        if path is None:
            continue
        content = _content(path)
        searched += len(content)
        # most files hold no hit, which one pass over the whole tells in far less time
        found_any = needle in content.lower()
        hits = [*_hits(content.split(b"\n"), needle, wanted.text)] if found_any else []
        if hits:
            own = f"{condition} AND g.file = ? AND g.first_line + c.col IN (%s)"
            marks = ",".join("?" * len(hits))
            rows = _places(base, own % marks, (*values, file["id"], *hits))
            found += _texts(index.folder, rows)
    return Found(found, None, None)


def _content(path: Path) -> bytes:
    with suppress(*_GONE):
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return b""


def _hits(lines: Sequence[bytes], needle: bytes, text: str) -> Iterator[int]:
    """Yield at most a few pages of line numbers whose completion holds `text`."""
    count, small = 0, text.lower()
    for number, line in enumerate(lines):
        if needle not in line.lower():
            continue
        record = _record(line)
        if record is not None and small in record["completion"].lower():
            yield number
            count += 1
            if count >= 4 * PER_PAGE:
                return


def _tokens(folder: RunFolder, name: str, line: int) -> Written | None:
    """Return what the step did to each token of a completion, None if it is not written."""
    path = folder.file("tokens", name)
    if path is None:
        return None
    start = b'{"line": %d,' % line
    try:
        found = next((one for one in lines_of(path) if one.startswith(start)), b"null")
        return _of_tokens(json.loads(found))
    except (*_GONE, ValueError, TypeError, KeyError, RecursionError):
        return None


def _of_tokens(row: Any) -> Written | None:
    """Return the columns of a line of tokens, which must be equally long."""
    if row is None:
        return None
    text, clipped = [str(one) for one in row["text"]], [str(one) for one in row["clipped"]]
    numbers: dict[str, list[float | None]] = {
        name: [None if one is None else float(one) for one in row[name]]
        for name in ("logprob", "entropy", "ratio", "advantage")
    }
    if {len(clipped), *map(len, numbers.values())} != {len(text)}:
        raise ValueError("a column is too short")
    return {"text": text, "clipped": clipped, **numbers}
