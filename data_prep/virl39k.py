"""ViRL39K: checkable questions of many kinds, most with images; 38,870 problems.

    python -m data_prep.virl39k --output data/virl39k

Schema (AReaL's loader): `question`, `answer` (in a box), `PassRate_32BTrained`, `PassRate_7BBase`,
`category`, `source`, `qid`, `image` (paths). One parquet file, `39Krelease.parquet`, with the
images in `images.zip` beside it (as other projects load it); the source may be a folder with both,
or the file with the zip or the unpacked `images` beside it. Licence: MIT.

Flaws handled: images are paths, read from the zip or the unpacked folder; one mark for several
images; boxed answers; pass rates of -1. Rows without an image are kept as text.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from data_prep.convert import main
from data_prep.converter import Converter, Draft, Source, items, text
from data_prep.golds import plain_answer
from vlm_rl.data.tables import Table, open_table

_ZIP = "images.zip"


class ViRL39K(Converter):
    """The published form."""

    name = "virl39k"
    hub_id = "TIGER-Lab/ViRL39K"
    layouts = (("question", "answer", "category", "source", "qid", "image"),)

    def open(self, source: str, split: str) -> Source:
        path, revision = Path(source).expanduser(), None
        if not path.exists():
            path = Path(snapshot_download(source, repo_type="dataset"))
            revision = path.name
        files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
        if len(files) != 1:
            raise ValueError(
                f"{path} holds {len(files)} parquet files; name one of them as --source"
            )
        return Source([_with_images(open_table(str(files[0])))], revision)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        rates = {name: row.get(f"PassRate_{name}") for name in ("32BTrained", "7BBase")}
        return Draft(
            question=text(row["question"]),
            answer=plain_answer(text(row["answer"])),
            images=items(row["image"]),
            id=text(row["qid"]) or None,
            task=text(row["category"]),
            meta={
                "origin": text(row["source"]),
                "pass_rates": {n: r for n, r in rates.items() if r is not None and _is_rate(r)},
            },
        )


def _is_rate(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and 0 <= value <= 1


def _with_images(table: Table) -> Table:
    """Replace each path that is only in the zip by the image's bytes.

    Raises ValueError if neither the zip nor the unpacked folder is there.
    """
    archive = table.folder / _ZIP
    if not archive.is_file():
        if not (table.folder / "images").is_dir():
            raise ValueError(f"no {archive} and no folder images beside it; download {_ZIP} there")
        return table
    return replace(table, rows=_rows(table, archive))


def _rows(table: Table, archive: Path) -> Iterator[tuple[str, object]]:
    with zipfile.ZipFile(archive) as zipped:
        members = set(zipped.namelist())
        for place, row in table.rows:
            if isinstance(row, Mapping) and isinstance(row.get("image"), list):
                images = [_image(path, table.folder, zipped, members) for path in row["image"]]
                row = {**row, "image": images}
            yield place, row


def _image(path: object, folder: Path, zipped: zipfile.ZipFile, members: set[str]) -> object:
    if not isinstance(path, str) or (folder / path).is_file():
        return path
    for member in (path, Path(path).name):
        if member in members:
            return {"bytes": zipped.read(member), "path": path}
    return path  # the row is then left out, with the name of the file


if __name__ == "__main__":
    main(ViRL39K())
