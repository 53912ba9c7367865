"""The one format on disk: `FOLDER/<split>.jsonl`, `FOLDER/images/<sha256>.<ext>`, `manifest.json`.

`vlm_rl.data.rows` reads the rows. Each different image is one file with the bytes of the source.
Nothing here depends on the day or the machine: converting twice gives the same bytes.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_rl.show.json_text import json_text

MAX_EXAMPLES = 5
MANIFEST = "manifest.json"
NATIVE = "vlm_rl"
"""The form of rows that is written here; `data_prep.peer_forms` has those of other trainers."""


class ImageFolder:
    """The images of a set; each different one is written once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[str] = set()

    def save(self, content: bytes) -> str:
        """Write an image as it is and return its path within the folder."""
        with Image.open(io.BytesIO(content)) as image:
            form = (image.format or "bin").lower()
        suffix = {"jpeg": "jpg", "mpo": "jpg"}.get(form, form)
        name = f"images/{hashlib.sha256(content).hexdigest()}.{suffix}"
        path = self._folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self._written.add(name)
        return name

    def remove_unused(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Delete images that were written here and that none of the `rows` names."""
        for name in self._written - {name for row in rows for name in row["images"]}:
            (self._folder / name).unlink()
            self._written.discard(name)
        images = self._folder / "images"
        if images.is_dir() and not any(images.iterdir()):
            images.rmdir()


class Drops:
    """Rows that were left out, by reason, with the first few of each."""

    def __init__(self) -> None:
        self._by_reason: dict[str, list[str]] = {}

    def add(self, reason: str, row: str) -> None:
        self._by_reason.setdefault(reason, []).append(row)

    @property
    def total(self) -> int:
        return sum(map(len, self._by_reason.values()))

    def plain(self) -> dict[str, Any]:
        """Return them as in the manifest, the most frequent reason first."""
        ranked = sorted(self._by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0]))
        return {r: {"count": len(rows), "examples": rows[:MAX_EXAMPLES]} for r, rows in ranked}

    def __str__(self) -> str:
        return ", ".join(f"{rows['count']} {reason}" for reason, rows in self.plain().items())


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write JSONL and return its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json_text(row, allow_nan=False) + "\n" for row in rows)
    path.write_bytes(content := lines.encode())
    return hashlib.sha256(content).hexdigest()


def check_folder(folder: Path, data_set: str, form: str = NATIVE) -> None:
    """Raise ValueError for a folder that holds another data set, or this one in another form."""
    manifest = _manifest(folder)
    held = manifest.get("data_set", data_set)
    if held != data_set:
        raise ValueError(f"{folder} holds {held}; choose another --output for {data_set}")
    for split, entry in manifest.get("splits", {}).items():
        other = entry.get("options", {}).get("form", NATIVE)
        if other != form:
            raise ValueError(
                f"{folder} holds {split} in the form {other}; choose another --output for "
                f"--form {form}"
            )


def write_manifest(folder: Path, data_set: str, split: str, entry: Mapping[str, Any]) -> None:
    """Add the entry of a split; the other splits of the folder keep theirs."""
    versions = {name: version(name) for name in ("vlm_rl", "pint")}
    splits = _manifest(folder).get("splits", {}) | {split: dict(entry) | {"versions": versions}}
    manifest = {"data_set": data_set, "splits": dict(sorted(splits.items()))}
    text = json_text(manifest, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; delete it") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is not a manifest of these scripts; choose another --output")
    return manifest
