"""Is a training problem part of a benchmark? By image, and by the text of its question.

An image matches by its bytes or by its decoded RGB pixels, so a re-encoded PNG matches and a scaled
or cropped one does not. Questions are compared by their letters and digits alone. One of fewer than
`MIN_CHARACTERS` ("Find x.") says nothing unless its image matches too. One of at least `LONG` also
matches with options after it or a request before it, on either side.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_rl.data.images import ImageStore
from vlm_rl.data.tables import BadRow, Table, open_table
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark
from vlm_rl.evaluation.benchmarks.loading import images_of, problem_of, rows_of

MIN_CHARACTERS = 20
LONG = 60
_MARKS = re.compile(r"<image\s*\d*>")
_QUESTIONS = ("problem", "question", "query")
_PATHS = ("image", "image_path", "imagename")
_IMAGES = re.compile(rf"images|decoded_image|image_\d+|{'|'.join(_PATHS)}")


@dataclass(frozen=True)
class BenchmarkRead:
    """How many different questions and images one benchmark gave; its rows name `images_missing`
    more, which cannot be read."""

    path: str
    questions: int
    images: int
    images_missing: int


class Benchmarks:
    """Questions and images that must not be trained on."""

    def __init__(self, sources: Iterable[str] = ()) -> None:
        """Read the benchmarks.

        A source is `NAME[:SPLIT][=COPY]`, a benchmark by its name (without a split all of them)
        from the hub or a local copy; a folder that these scripts wrote; or a raw table. Raises
        ValueError for what cannot be read or gives no question.
        """
        self._questions: set[str] = set()
        self._openings: dict[str, list[str]] = {}
        """Questions by their first `LONG` characters; shorter ones are never looked up."""
        self._images: set[str] = set()
        self.read = [self._add(source) for source in sources]
        self._text = "\n".join(sorted(self._questions))

    def match(self, question: str, images: Sequence[bytes]) -> str | None:
        """Return the reason to leave a problem out, None if it is in no benchmark."""
        if not self.read:
            return None
        letters = normalised(question)
        same_question = letters in self._questions
        if any(not self._images.isdisjoint(image_digests(image)) for image in images):
            return "image and question in a benchmark" if same_question else "image in a benchmark"
        if same_question and len(letters) >= MIN_CHARACTERS:
            return "question in a benchmark"
        return "part of the question in a benchmark" if self._overlaps(letters) else None

    def _overlaps(self, letters: str) -> bool:
        """Return whether a long question of a benchmark is part of `letters`, or the reverse."""
        starts = range(len(letters) - LONG + 1)
        return (len(letters) >= LONG and letters in self._text) or any(
            letters.startswith(known, start)
            for start in starts
            for known in self._openings.get(letters[start : start + LONG], ())
        )

    def _add(self, source: str) -> BenchmarkRead:
        questions: set[str] = set()
        images: dict[str, tuple[str, ...]] = {}
        missing = 0
        for texts, items, folder in _entries(source):
            questions.update(map(normalised, texts))
            contents, unreadable = _contents(items, folder)
            images |= {digests[0]: digests for digests in map(image_digests, contents)}
            missing += unreadable
        questions -= {""}
        if not questions:
            raise ValueError(f"{source} gives no question to compare with; {_way_out(source)}")
        self._questions |= questions
        for question in questions:
            self._openings.setdefault(question[:LONG], []).append(question)
        self._images.update(*images.values())
        return BenchmarkRead(source, len(questions), len(images), missing)


Entry = tuple[Sequence[str], Sequence[object], Path]
"""Texts of a row that may be its question, its images as they are stored, and their folder."""


def normalised(question: str) -> str:
    """Return the letters and digits of a question, case folded, without image marks."""
    return "".join(filter(str.isalnum, _MARKS.sub("", question).casefold()))


def image_digests(content: bytes) -> tuple[str, ...]:
    """Return the SHA-256 of the bytes and, if they can be decoded, of size and RGB pixels."""
    stored = hashlib.sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            # Pillow warns of a palette with transparency that does not go through RGBA
            clear = "transparency" in image.info
            pixels = (image.convert("RGBA") if clear else image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return (stored,)
    return stored, hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()


def _entries(source: str) -> Iterator[Entry]:
    name, _, copy = source.partition("=")
    name, _, split = name.partition(":")
    if name in BENCHMARKS and (copy or not Path(source).exists()):
        return _benchmark_entries(BENCHMARKS[name], copy or None, split)
    return _table_entries(source)


def _way_out(source: str) -> str:
    return f"name the benchmark that it is a copy of, as NAME={source}: {', '.join(BENCHMARKS)}"


def _benchmark_entries(benchmark: Benchmark, copy: str | None, split: str) -> Iterator[Entry]:
    if split and split not in benchmark.splits:
        raise ValueError(
            f"{benchmark.name} has the splits {', '.join(benchmark.splits)}, got {split!r}"
        )
    one_file = copy is not None and Path(copy).is_file()
    splits = (split,) if split else benchmark.splits[: 1 if one_file else None]
    for each in splits:
        for part in benchmark.tables(copy or benchmark.hub_id, each):
            for table, _, row in rows_of(benchmark, part):
                if isinstance(row, Mapping):
                    yield _texts(benchmark, row), _images(benchmark, row), table.folder


def _texts(benchmark: Benchmark, row: Mapping[str, Any]) -> list[str]:
    try:
        return [problem_of(benchmark, row).question]
    except BadRow:  # a question without a gold must not be trained on either
        return [str(row.get(name) or "") for name in _QUESTIONS]


def _images(benchmark: Benchmark, row: Mapping[str, Any]) -> Sequence[object]:
    try:
        return images_of(benchmark, row)
    except BadRow:
        return [None]  # counted as missing


def _table_entries(source: str) -> Iterator[Entry]:
    for table in _tables(source):
        questions = [name for name in _QUESTIONS if name in table.columns]
        images = [name for name in table.columns if _IMAGES.fullmatch(name)]
        if not questions and not images:
            raise ValueError(
                f"{table.label}: no column {', '.join(_QUESTIONS)} or image to compare with; there "
                f"are {', '.join(table.columns) or 'none'}; {_way_out(source)}"
            )
        for _, row in table.rows:
            if isinstance(row, Mapping):
                texts = [str(row.get(name) or "") for name in questions]
                yield texts, _stored(row, images), table.folder


def _tables(path: str) -> list[Table]:
    folder = Path(path).expanduser()
    if (folder / "manifest.json").is_file():
        return [open_table(str(file)) for file in sorted(folder.glob("*.jsonl"))]
    return [open_table(path)]


def _stored(row: Mapping[str, Any], columns: Sequence[str]) -> list[object]:
    """Return the images of a row. A path beside a decoded image is left out, because it points into
    a repository that is not there."""
    if row.get("decoded_image") is not None:
        columns = [name for name in columns if name not in _PATHS]
    cells = [row.get(name) for name in columns]
    lists = [cell if isinstance(cell, list) else [cell] for cell in cells if cell is not None]
    return [item for items in lists for item in items]


def _contents(items: Sequence[object], folder: Path) -> tuple[list[bytes], int]:
    """Return the bytes of the images that can be read, and how many cannot."""
    contents, missing = [], 0
    for item in items:
        try:
            image, _ = ImageStore().add(item, folder)
        except BadRow:
            missing += 1
        else:
            contents.append(image if isinstance(image, bytes) else image.read_bytes())
    return contents, missing
