"""An index of the completions of a run: where each stands in its file, and what is asked for often.

SQLite in `view/index.sqlite` of the run's folder, or in a temporary folder where that cannot be
written. A file is read when it is new or has changed, so an index follows a run that goes on. Texts
stay in the files of the run.
"""

import gzip
import json
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_rl.records import Verdict
from vlm_rl.view.folder import ROLLOUTS, RunFolder, Stamp

VERDICTS = tuple(Verdict)
SCHEMA_VERSION = 1
_STEP_BITS, _RANK_BITS = 32, 20
_FILES_AT_ONCE = 16
_SCHEMA = """
CREATE TABLE files (id INTEGER PRIMARY KEY, name TEXT UNIQUE, step INT, size INT, mtime_ns INT,
    damage TEXT);
CREATE TABLE problems (id INTEGER PRIMARY KEY, uid TEXT UNIQUE, source TEXT, question TEXT,
    answer TEXT, images TEXT, visits INT, num INT, accuracy REAL, change REAL, length REAL,
    last_step INT);
CREATE TABLE groups (id INTEGER PRIMARY KEY, file INT, step INT, problem INT, first_line INT,
    num INT, correct INT, verdicts INT, shortest INT, longest INT, tokens INT, reward REAL,
    trained INT);
CREATE INDEX groups_of_problem ON groups (problem, id);
CREATE INDEX groups_of_file ON groups (file);
CREATE TABLE completions (grp INT, col INT, offset INT, bytes INT, verdict INT, reward REAL,
    length INT, advantage REAL, PRIMARY KEY (grp, col)) WITHOUT ROWID;
"""
_OF_PROBLEMS = """
UPDATE problems SET visits = t.visits, num = t.num, accuracy = t.accuracy, length = t.length,
    change = CASE WHEN t.visits > 1 THEN
        (SELECT 1.0 * correct / num FROM groups WHERE id = t.last)
        - (SELECT 1.0 * correct / num FROM groups WHERE id = t.first) END,
    last_step = t.last >> 32
FROM (SELECT problem, count(*) visits, sum(num) num, 1.0 * sum(correct) / sum(num) accuracy,
    1.0 * sum(tokens) / sum(num) length, min(id) first, max(id) last
    FROM groups WHERE problem IN (SELECT id FROM touched) GROUP BY problem) t
WHERE t.problem = problems.id
"""


@dataclass
class IndexProgress:
    """How far the index is. `damaged` are lines that say which files were left out."""

    files: int = 0
    indexed: int = 0
    damaged: list[str] = field(default_factory=list)


class RolloutIndex:
    """The index of one folder. `refresh` brings it up to date; `connect` is for reading."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.progress = IndexProgress(files=len(_rollout_files(folder)))
        self._lock = threading.Lock()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.path = self._place()

    def _place(self) -> Path:
        """Open the index, made anew if another version wrote it or it is no index."""
        own = self.folder.root / "view" / "index.sqlite"
        try:
            own.parent.mkdir(exist_ok=True)
            if not own.parent.resolve().is_relative_to(self.folder.root):
                raise PermissionError(f"{own.parent} leads out of the folder")
            self._prepare(own)
        except (OSError, sqlite3.OperationalError):
            self._temporary = tempfile.TemporaryDirectory(prefix="vlm_rl_view_")
            own = Path(self._temporary.name) / "index.sqlite"
            self._prepare(own)
        return own

    def _prepare(self, path: Path) -> None:
        try:
            with closing(_opened(path)) as base:
                if base.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
                    return
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            (path.parent / name).unlink(missing_ok=True)
        with closing(_opened(path)) as base:
            base.executescript(_SCHEMA)
            base.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            base.commit()

    def connect(self) -> sqlite3.Connection:
        """Return a connection for reading; rows are by name."""
        base = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        base.row_factory = sqlite3.Row
        return base

    def close(self) -> None:
        """Delete what lies in a temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def refresh(self, go_on: Callable[[], bool] = lambda: True) -> bool:
        """Read files that are new or have changed, forget those that are gone; say if any were.

        Stops between files when `go_on` says no.
        """
        with self._lock, closing(_opened(self.path)) as base:
            base.execute("BEGIN IMMEDIATE")  # another page over the same run waits here
            known = {
                name: (number, Stamp(size, time))
                for number, name, size, time in base.execute(
                    "SELECT id, name, size, mtime_ns FROM files"
                )
            }
            there = _rollout_files(self.folder)
            gone = [known[name][0] for name in known if there.get(name) != known[name][1]]
            new = sorted(
                name for name in there if name not in known or known[name][1] != there[name]
            )
            self.progress.files = len(there)
            self.progress.indexed = len(there) - len(new)
            _begin_touched(base)
            for number in gone:
                _forget(base, number)
            for count, name in enumerate(new, 1):
                if not go_on():
                    break
                _read(base, self.folder, name, there[name])
                if count % _FILES_AT_ONCE == 0:
                    _end_touched(base)
                    base.execute("BEGIN IMMEDIATE")
                    _begin_touched(base)
                self.progress.indexed += 1
            _end_touched(base)
            rows = base.execute("SELECT damage FROM files WHERE damage IS NOT NULL ORDER BY name")
            self.progress.damaged = [row[0] for row in rows]
            return bool(new or gone)


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a rollout file, with their ends."""
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as packed:
            yield from packed
    else:
        with path.open("rb") as file:
            yield from file


def _opened(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, isolation_level=None, timeout=60)
    base.execute("PRAGMA journal_mode = WAL")  # pages read while files are added
    base.execute("PRAGMA synchronous = OFF")  # a lost index is made again
    return base


def _rollout_files(folder: RunFolder) -> dict[str, Stamp]:
    names = [path.name for path in (folder.root / "rollouts").glob("step_*.jsonl*")]
    stamps = {n: folder.stamp("rollouts", n) for n in names if ROLLOUTS.fullmatch(n)}
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}


def _begin_touched(base: sqlite3.Connection) -> None:
    base.execute("CREATE TEMP TABLE IF NOT EXISTS touched (id INTEGER PRIMARY KEY)")
    base.execute("DELETE FROM touched")


def _end_touched(base: sqlite3.Connection) -> None:
    base.execute(_OF_PROBLEMS)
    base.execute(
        "DELETE FROM problems WHERE id IN touched AND id NOT IN (SELECT problem FROM groups)"
    )
    base.execute("COMMIT")


def _forget(base: sqlite3.Connection, number: int) -> None:
    own = "SELECT id FROM groups WHERE file = ?"
    base.execute(
        "INSERT OR IGNORE INTO touched SELECT problem FROM groups WHERE file = ?", (number,)
    )
    base.execute(f"DELETE FROM completions WHERE grp IN ({own})", (number,))
    base.execute("DELETE FROM groups WHERE file = ?", (number,))
    base.execute("DELETE FROM files WHERE id = ?", (number,))


def _read(base: sqlite3.Connection, folder: RunFolder, name: str, stamp: Stamp) -> None:
    """Add a file. One that is damaged is in the index by its name alone, until it changes."""
    match, path = ROLLOUTS.fullmatch(name), folder.file("rollouts", name)
    assert match
    step, rank = int(match[1]), int(match[2] or 0)
    damage, groups = None, []
    try:
        groups = [] if path is None else list(_groups(path))
    except (ValueError, KeyError, TypeError, OSError, EOFError, RecursionError) as error:
        damage = f"rollouts/{name} is left out: {type(error).__name__} {error!s:.80}"
    cursor = base.execute(
        "INSERT INTO files (name, step, size, mtime_ns, damage) VALUES (?, ?, ?, ?, ?)",
        (name, step, *stamp, damage),
    )
    for number, group in enumerate(groups):
        key = (step << _STEP_BITS) | (rank << _RANK_BITS) | number
        problem = _problem(base, group.first)
        base.execute(
            "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, cursor.lastrowid, step, problem, group.first_line, *group.summary()),
        )
        base.executemany(
            "INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(key, column, *values) for column, values in enumerate(group.rows)],
        )


def _problem(base: sqlite3.Connection, row: dict[str, Any]) -> int:
    uid = str(row["uid"])
    found = base.execute("SELECT id FROM problems WHERE uid = ?", (storable(uid),)).fetchone()
    if found is None:
        images = json.dumps([str(name) for name in row.get("images", [])])
        texts = (uid, str(row.get("source", "")), str(row["question"]), str(row["answer"]))
        number = base.execute(
            "INSERT INTO problems (uid, source, question, answer, images) VALUES (?, ?, ?, ?, ?)",
            (*map(storable, texts), images),
        ).lastrowid
        assert number is not None
    else:
        number = found[0]
    base.execute("INSERT OR IGNORE INTO touched VALUES (?)", (number,))
    return int(number)


def storable(text: str) -> str:
    """Return `text` with escapes for what UTF-8 cannot write."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass
class _Group:
    """Lines of one problem that follow one another."""

    first: dict[str, Any]
    first_line: int
    rows: list[tuple[int, int, int, float, int, float | None]] = field(default_factory=list)

    def summary(self) -> tuple[int, int, int, int, int, int, float, int]:
        """Return num, correct, verdicts (bits), shortest, longest, tokens, reward, trained."""
        verdicts = [row[2] for row in self.rows]
        lengths = [row[4] for row in self.rows]
        bits = sum(1 << verdict for verdict in set(verdicts))
        correct = verdicts.count(VERDICTS.index(Verdict.CORRECT))
        reward = sum(row[3] for row in self.rows)
        trained = bool(self.first["trained"])
        sizes = (min(lengths), max(lengths), sum(lengths))
        return (len(self.rows), correct, bits, *sizes, reward, int(trained))


def _groups(path: Path) -> Iterator[_Group]:
    """Yield the groups of a rollout file."""
    codes = {verdict.value: code for code, verdict in enumerate(VERDICTS)}
    offset, group = 0, None
    for number, line in enumerate(lines_of(path)):
        row = json.loads(line)
        if group is None or (row["uid"], row["trained"]) != (
            group.first["uid"],
            group.first["trained"],
        ):
            if group is not None:
                yield group
            group = _Group(row, number)
        advantage = None if row["advantage"] is None else float(row["advantage"])
        values = (codes[row["verdict"]], float(row["reward"]), int(row["length_tokens"]))
        group.rows.append((offset, len(line), *values, advantage))
        offset += len(line)
    if group is not None:
        yield group
