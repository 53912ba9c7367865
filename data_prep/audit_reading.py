"""What an audit looks at: problems with the headers of their images, and the rows left out."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from vlm_rl.data.images import ImageStore, digest
from vlm_rl.data.rows import Skipped, read_problems
from vlm_rl.records import Problem
from vlm_rl.show.screen import Screen, track


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

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def ratio(self) -> float:
        """The longer side as a multiple of the shorter."""
        return max(self.width, self.height) / min(self.width, self.height)


@dataclass(frozen=True)
class DataSet:
    """All that a source holds; `mappings` say which columns were read as what, a line per file."""

    problems: Sequence[Problem]
    skipped: Sequence[Skipped]
    mappings: Sequence[str]
    headers: Mapping[bytes | Path, ImageHeader]

    @property
    def images(self) -> list[ImageHeader]:
        """Each image once, in the order of the problems."""
        return list({header.digest: header for header in self.headers.values()}.values())

    def images_of(self, problem: Problem) -> list[ImageHeader]:
        """Return the headers of a problem's images, in their order."""
        return [self.headers[source] for source in problem.images]


def read_data_set(source: str, split: str | None, columns: Mapping[str, str] | None) -> DataSet:
    """Read a file, a folder of JSONL files (each a split), or whatever else `read_problems` reads.

    A uid may come again in another split. Raises ValueError if nothing can be read.
    """
    folder = Path(source).expanduser()
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    chosen = [file for file in files if split in (None, file.stem)]
    if files and not chosen:
        names = ", ".join(file.stem for file in files)
        raise ValueError(f"{source} has the splits {names}; got split={split}")
    problems: list[Problem] = []
    skipped: list[Skipped] = []
    mappings: list[str] = []
    store = ImageStore()
    with Screen().waiting(f"reading {source}"):
        for path, name in [(str(file), file.stem) for file in chosen] or [(source, split or "")]:
            inner = None if chosen else split
            rows = read_problems(path, store, owners={}, split=inner, columns=columns)
            problems += [replace(p, split=name or p.split) for p in rows.problems]
            skipped += rows.skipped
            mappings.append(rows.mapping)
    if not problems:
        first = f"; the first: {skipped[0].message}" if skipped else ""
        raise ValueError(f"{source}: no problem can be read, {len(skipped)} rows left out{first}")
    sources = list(dict.fromkeys(image for problem in problems for image in problem.images))
    shown = track(sources, "image headers", transient=True)
    return DataSet(problems, skipped, mappings, {image: _header(image) for image in shown})


def _header(source: bytes | Path) -> ImageHeader:
    content = source if isinstance(source, bytes) else source.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        kind = image.format or "unknown"
        return ImageHeader(digest(content), source, kind, image.mode, *image.size, len(content))
