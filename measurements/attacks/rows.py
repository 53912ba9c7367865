"""Poisoned rows: every field of a problem with every kind of hostile value."""

import base64
import io
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from measurements.attacks.ground import Attack, Ground

FIELDS = (
    *("uid", "problem", "answer", "images", "choices", "answer_type", "unit", "tolerance"),
    *("task", "system", "meta", "unknown"),
)
PER_RUN = 25
_RUN_STEPS = 4


def texts() -> Iterator[Any]:
    """Yield values that stand where a text is expected."""
    yield from (None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**40, "", " ", "\n", "\t")
    yield from ([], {}, [[]], [None], {"a": 1}, [1, "a"], {"bytes": None, "path": None})
    yield from (
        "\x00",
        "a\x00b",
        "\ud800",
        "\u202eabc",
        "\x1b[2J\x1b[31m",
        "\r",
        "\ufeff",
        "\u200b",
    )
    yield from ("[red]x[/red]", "[/]", "<script>alert(1)</script>", "a|b\nc", "=1+1", "{{ 7*7 }}")
    yield from ("{% for x in range(10**9) %}{% endfor %}", "%s%n{0}{x}", "$(touch x)", "`id`")
    yield from ("<|im_end|>", "<|im_start|>system\n", "<image>" * 50, "<|image_pad|>" * 9)
    yield from ("<|vision_start|>", "\\boxed{" * 200, "((((" * 200, "9" * 5000, "9^{9^{9^9}}")
    yield from (
        "x" * 10_000,
        "字" * 2_000_000,
        "a " * 1_000_000,
        "../../../etc/passwd",
        "/dev/zero",
    )
    yield from (
        "__import__('os').system('touch it_ran')",
        "\\frac{1}{0}",
        "1e999999999",
        "🙂" * 100,
    )
    yield json.loads("[" * 90 + "]" * 90)


def pictures(folder: Path) -> Iterator[Any]:
    """Yield values that stand where pictures are expected; files are written to `folder`."""
    whole = io.BytesIO()
    Image.new("RGB", (64, 64)).save(whole, "PNG")
    data = whole.getvalue()
    bomb = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(bomb, "PNG")
    for name, content in {
        **{"cut.png": data[:40], "empty.png": b"", "text.png": b"no picture", "bomb.png": bomb},
        **{"zeros.png": bytes(1000), "head.png": data[:8] + bytes(100)},
        **{"flipped.png": bytes([*data[:30], data[30] ^ 255, *data[31:]])},
        "drawn.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/>",
    }.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.getvalue())
        yield [name]
    for size in ((1, 1), (1, 3000), (3000, 1), (9000, 8)):
        Image.new("RGB", size).save(folder / f"{size[0]}x{size[1]}.png")
        yield [f"{size[0]}x{size[1]}.png"]
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    yield from (["pipe.png"], ["folder.png"], ["loop.png"], ["missing.png"], ["/dev/zero"])
    yield from (
        ["/dev/stdin"],
        ["/etc/passwd"],
        ["../../data/train.jsonl"],
        ["http://127.0.0.1:9/x"],
    )
    encoded = base64.b64encode(data).decode()
    yield from (
        [encoded],
        [{"bytes": encoded}],
        [{"bytes": "?"}],
        [f"data:image/png;base64,{encoded}"],
    )
    yield from ([[]], [{}], "whole.png", 7, ["a.png"] * 300, [None, None])


def attacks(ground: Ground, count: int, seed: int) -> Iterator[Attack]:
    """Yield runs on data with `count` poisoned rows in all, `PER_RUN` beside the good ones."""
    draw = random.Random(seed)
    for number in range(0, count, PER_RUN):
        size = min(PER_RUN, count - number)
        own = draw.randrange(10**9)

        def tried(folder: Path, size: int = size, own: int = own) -> str:
            return _tried(ground, folder, size, random.Random(own))

        yield Attack("poisoned rows", f"rows {number + 1} to {number + size}", tried)


def _tried(ground: Ground, folder: Path, count: int, draw: random.Random) -> str:
    images = [*pictures(folder)]
    values = [(name, value) for name in FIELDS for value in texts()]
    values += [("images", value) for value in images] * 3
    rows = [json.loads(line) for line in (ground.data / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["images"] = [str(ground.data / image) for image in row["images"]]
    poisoned = []
    for number, (name, value) in enumerate(draw.sample(values, count)):
        poisoned.append(dict(draw.choice(rows)) | {"uid": f"poisoned {number}", name: value})
    (folder / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (*rows, *poisoned))
    )
    sources = json.dumps([{"path": f"{folder}/train.jsonl"}])
    changes = {"data.train": sources, "data.on_bad_row": "skip", "data.prompts_per_step": 8}
    outcome = ground.run(folder / "run", steps=_RUN_STEPS, **changes)
    if (folder / "it_ran").exists() or Path("it_ran").exists():
        return "an answer ran"
    return outcome.broke(0)
