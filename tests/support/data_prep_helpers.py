"""Rows in published schemas, and conversions whose result is read as training reads it."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
from datasets import Features, List, Value
from PIL import Image as Pillow

from data_prep.convert import Options, convert
from data_prep.converter import Converter
from data_prep.geometry3k import Geometry3K
from vlm_rl.data.images import ImageStore
from vlm_rl.data.rows import read_problems
from vlm_rl.records import Problem

STRING, INT = Value("string"), Value("int64")
IMAGE = datasets.Image()


def png(shade: int = 0, mode: str = "RGB", size: tuple[int, int] = (12, 9)) -> bytes:
    target = io.BytesIO()
    Pillow.new(mode, size, (shade,) * len(mode) if mode in ("RGB", "RGBA") else shade).save(
        target, "PNG"
    )
    return target.getvalue()


def stored(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


RED, BLUE = stored(png(1)), stored(png(2))


def parquet(path: Path, features: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=Features(features)).to_parquet(path)
    return path


def converted(
    converter: Converter, source: Path | str, output: Path, split: str = "train", **options: Any
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the split's entry in the manifest and all problems as training reads them."""
    convert(converter, Options(str(source), split, output, **options))
    entry = json.loads((output / "manifest.json").read_text())["splits"][split]
    rows = read_problems(str(output / entry["file"]), ImageStore(), owners={})
    assert rows.skipped == []
    assert len(rows.problems) == entry["written"]
    assert entry["read"] == entry["written"] + sum(d["count"] for d in entry["dropped"].values())
    for problem in rows.problems:
        assert problem.question.count("<image>") == len(problem.images)
    return entry, rows.problems


def drops(entry: dict[str, Any]) -> dict[str, int]:
    return {reason: rows["count"] for reason, rows in entry["dropped"].items()}


def golds(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.question, problem.answer) for problem in problems]


def encoded(image: Pillow.Image, form: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def noise(seed: int, mode: str = "RGB") -> Pillow.Image:
    pixels = bytes((seed * 31 + 7 * n) % 256 for n in range(16 * 12))
    return Pillow.frombytes("L", (16, 12), pixels).convert(mode)


def row(content: bytes, problem: str, answer: str = "5") -> dict[str, Any]:
    image = [{"bytes": content, "path": None}]
    return {"images": image, "problem": f"<image>{problem}", "answer": answer}


def geometry(path: Path, rows: list[dict[str, Any]]) -> Path:
    features = {"images": List(IMAGE), "problem": STRING}
    table = datasets.Dataset.from_list(rows, Features(features | {"answer": STRING}))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)
    return path


def run(source: Path, output: Path, **options: Any) -> dict[str, Any]:
    return convert(Geometry3K(), Options(str(source), "train", output, **options))[0]


def files(folder: Path) -> dict[str, bytes]:
    """Return what each file of a folder holds, by its name in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
