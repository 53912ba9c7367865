"""Small files of problems, and the data module that reads them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.tiny import png
from vlm_rl.data.datamodule import DataSource, ProblemData
from vlm_rl.data.prompts import PromptEncoder


def write(folder: Path, rows: int, name: str = "t", **columns: Any) -> str:
    path = folder / f"{name}.jsonl"
    lines = [
        {"uid": f"{name}{i}", "problem": f"{i} + {i}?", "answer": 2 * i} | columns
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def write_image_rows(folder: Path, images: dict[str, bytes]) -> str:
    for name, content in images.items():
        (folder / name).write_bytes(content)
    lines = [
        {"uid": name, "problem": "<image>?", "answer": "1", "images": [name]} for name in images
    ]
    path = folder / "images.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


NOISE = Image.effect_noise((56, 56), 60).convert("RGB")
JPEG = png(NOISE, "JPEG")
CUT_JPEG = JPEG[: len(JPEG) // 2]
"""Its header is whole, so that only decoding finds out."""


def data(encoder: PromptEncoder, *train: str, **options: Any) -> ProblemData:
    options = {"prompts_per_step": 4, "val": []} | options
    module = ProblemData([DataSource(path) for path in train], encoder=encoder, **options)
    module.setup()
    return module
