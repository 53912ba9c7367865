"""What an audit looks at: problems with the headers of their pictures, and the rows left out."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from vlm_rl.data.rows import ImageStore, Skipped, read_problems
from vlm_rl.records import Problem


@dataclass(frozen=True)
class Picture:
    """The header of an image; `num_bytes` as it is stored, `width` and `height` in pixels."""

    digest: str
    source: bytes | Path
    format: str
    mode: str
    width: int
    height: int
    num_bytes: int


@dataclass(frozen=True, eq=False)
class Entry:
    """A problem with its split and its pictures."""

    problem: Problem
    split: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class DataSet:
    """All that a source holds; `mappings` say which columns were read as what, a line per file."""

    entries: Sequence[Entry]
    skipped: Sequence[Skipped]
    mappings: Sequence[str]


def read_data_set(source: str, split: str | None, columns: Mapping[str, str] | None) -> DataSet:
    """Read a file, a folder of JSONL files (each a split), or whatever else `read_problems` reads.

    A uid may come again in another split. Raises ValueError where nothing can be read.
    """
    store = ImageStore()
    problems: list[tuple[Problem, str]] = []
    skipped: list[Skipped] = []
    mappings = []
    with Console().status(f"reading {source}"):
        for path, name, chosen in _parts(source, split):
            found = read_problems(path, store, owners={}, split=chosen, columns=columns)
            problems += [(problem, name or problem.split) for problem in found.problems]
            skipped += found.skipped
            mappings.append(found.mapping)
    if not problems:
        first = f"; the first: {skipped[0].message}" if skipped else ""
        raise ValueError(f"{source}: no problem can be read, {len(skipped)} rows left out{first}")
    headers = _Headers(store)
    shown = track(problems, "image headers", transient=True)
    entries = [
        Entry(problem, name, tuple(map(headers.read, problem.images))) for problem, name in shown
    ]
    return DataSet(entries, skipped, mappings)


def _parts(source: str, split: str | None) -> list[tuple[str, str, str | None]]:
    """(path, name of the split, split to choose in it) of each part of a source."""
    folder = Path(source).expanduser()
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        return [(source, split or "", split)]
    chosen = [file for file in files if split in (None, file.stem)]
    if not chosen:
        names = ", ".join(file.stem for file in files)
        raise ValueError(f"{source} has the splits {names}; got split={split}")
    return [(str(file), file.stem, None) for file in chosen]


class _Headers:
    """Reads the header of each different image once."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._known: dict[str, Picture] = {}

    def read(self, source: bytes | Path) -> Picture:
        # an absolute or known path stays as it is when joined to the current folder
        item = source if isinstance(source, bytes) else str(source)
        _, digest = self._store.add(item, Path())
        if digest not in self._known:
            self._known[digest] = _header(source, digest)
        return self._known[digest]


def _header(source: bytes | Path, digest: str) -> Picture:
    num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        form = image.format or "unknown"
        return Picture(digest, source, form, image.mode, image.width, image.height, num_bytes)
