"""Does a training problem stand in a benchmark? By image, and by the words of its question.

An image is known again by its bytes and by its decoded RGB pixels, so that a re-encoded PNG is
found; a scaled or cut one is not. A question is compared by its letters and digits alone. One of
fewer than `MIN_CHARACTERS` of them ("Find x.") says nothing unless its image matches too.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_rl.rows import ImageStore
from vlm_rl.tables import BadRow, Table, open_table

MIN_CHARACTERS = 20
_MARKS = re.compile(r"<image\s*\d*>")
_QUESTIONS = ("problem", "question", "query")
_IMAGES = re.compile(r"images|decoded_image|image|image_\d+")


@dataclass(frozen=True)
class BenchmarkRead:
    """How many different questions and images one benchmark gave; `images_missing` are named by
    its rows but can not be read."""

    path: str
    questions: int
    images: int
    images_missing: int


class Benchmarks:
    """Questions and images that must not be trained on."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """`paths` are folders that these scripts wrote, or raw tables; raises ValueError."""
        self._questions: set[str] = set()
        self._images: set[str] = set()
        self.read = [self._add(path) for path in paths]

    def match(self, question: str, images: Sequence[bytes]) -> str | None:
        """The reason to leave a problem out, None where it stands in no benchmark."""
        if not self.read:
            return None
        words = normalised(question)
        same_question = words in self._questions
        if any(not self._images.isdisjoint(image_digests(image)) for image in images):
            return "image and question in a benchmark" if same_question else "image in a benchmark"
        alone = same_question and len(words) >= MIN_CHARACTERS
        return "question in a benchmark" if alone else None

    def _add(self, path: str) -> BenchmarkRead:
        questions: set[str] = set()
        images: dict[str, tuple[str, ...]] = {}
        missing = 0
        for table in _tables(path):
            question_columns = [name for name in _QUESTIONS if name in table.columns]
            image_columns = [name for name in table.columns if _IMAGES.fullmatch(name)]
            if not question_columns and not image_columns:
                raise ValueError(
                    f"{table.label}: no column {', '.join(_QUESTIONS)} or image to compare with; "
                    f"there are {', '.join(table.columns) or 'none'}"
                )
            for _, row in table.rows:
                if isinstance(row, Mapping):
                    questions |= {normalised(str(row.get(name) or "")) for name in question_columns}
                    found, absent = _row_images(row, image_columns, table.folder)
                    images |= {digests[0]: digests for digests in map(image_digests, found)}
                    missing += absent
        self._questions |= questions - {""}
        self._images.update(*images.values())
        return BenchmarkRead(path, len(questions - {""}), len(images), missing)


def normalised(question: str) -> str:
    """The letters and digits of a question, case folded, image marks left out."""
    return "".join(filter(str.isalnum, _MARKS.sub("", question).casefold()))


def image_digests(content: bytes) -> tuple[str, ...]:
    """sha256 of the bytes, and of size and RGB pixels where these can be decoded."""
    stored = hashlib.sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            # Pillow warns of a palette with transparency that does not go through RGBA
            clear = "transparency" in image.info
            pixels = (image.convert("RGBA") if clear else image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return (stored,)
    return stored, hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()


def _tables(path: str) -> list[Table]:
    folder = Path(path).expanduser()
    if (folder / "manifest.json").is_file():
        return [open_table(str(file)) for file in sorted(folder.glob("*.jsonl"))]
    return [open_table(path)]


def _row_images(
    row: Mapping[str, Any], columns: Sequence[str], folder: Path
) -> tuple[list[bytes], int]:
    """Image contents of a row and how many could not be read. Where a decoded image stands beside
    `image`, the latter is its path in a repository that is not there."""
    if row.get("decoded_image") is not None:
        columns = [name for name in columns if name != "image"]
    found, missing = [], 0
    for name in columns:
        cell = row.get(name)
        for item in cell if isinstance(cell, list) else [] if cell is None else [cell]:
            try:
                image, _ = ImageStore().add(item, folder)
            except BadRow:
                missing += 1
            else:
                found.append(image if isinstance(image, bytes) else image.read_bytes())
    return found, missing
