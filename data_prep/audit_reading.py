"""What an audit looks at: problems with the headers of their images, and the rows left out."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from vlm_rl.data.images import ImageStore
from vlm_rl.data.rows import Skipped, read_problems
from vlm_rl.records import Problem


@dataclass(frozen=True)
class ImageHeader:
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
    """A problem with its split and the headers of its images."""

    problem: Problem
    split: str
    images: tuple[ImageHeader, ...]


@dataclass(frozen=True)
class DataSet:
    """All that a source holds; `mappings` say which columns were read as what, a line per file."""

    entries: Sequence[Entry]
    skipped: Sequence[Skipped]
    mappings: Sequence[str]

    @property
    def images(self) -> list[ImageHeader]:
        """Each image once, in the order of the problems."""
        return list({i.digest: i for entry in self.entries for i in entry.images}.values())


def read_data_set(source: str, split: str | None, columns: Mapping[str, str] | None) -> DataSet:
    """Read a file, a folder of JSONL files (each a split), or whatever else `read_problems` reads.

    A uid may come again in another split. Raises ValueError if nothing can be read.
    """
    store, headers = ImageStore(), dict[str, ImageHeader]()
    problems: list[tuple[Problem, str]] = []
    skipped: list[Skipped] = []
    mappings = []
    with Console().status(f"reading {source}"):
        for path, name, chosen in _parts(source, split):
            rows = read_problems(path, store, owners={}, split=chosen, columns=columns)
            problems += [(problem, name or problem.split) for problem in rows.problems]
            skipped += rows.skipped
            mappings.append(rows.mapping)
    if not problems:
        first = f"; the first: {skipped[0].message}" if skipped else ""
        raise ValueError(f"{source}: no problem can be read, {len(skipped)} rows left out{first}")
    entries = [
        Entry(problem, name, tuple(_header(image, store, headers) for image in problem.images))
        for problem, name in track(problems, "image headers", transient=True)
    ]
    return DataSet(entries, skipped, mappings)


def _parts(source: str, split: str | None) -> list[tuple[str, str, str | None]]:
    """Return (path, name of the split, split to choose in it) of each part of a source."""
    folder = Path(source).expanduser()
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        return [(source, split or "", split)]
    chosen = [file for file in files if split in (None, file.stem)]
    if not chosen:
        names = ", ".join(file.stem for file in files)
        raise ValueError(f"{source} has the splits {names}; got split={split}")
    return [(str(file), file.stem, None) for file in chosen]


def _header(
    source: bytes | Path, store: ImageStore, headers: dict[str, ImageHeader]
) -> ImageHeader:
    """Return the header of an image, read once for each digest."""
    # an absolute or known path stays as it is when joined to the current folder
    _, digest = store.add(source if isinstance(source, bytes) else str(source), Path())
    if digest not in headers:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            form, mode = image.format or "unknown", image.mode
            headers[digest] = ImageHeader(digest, source, form, mode, *image.size, size)
    return headers[digest]
