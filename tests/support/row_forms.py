"""Rows in the forms in which people have them, made from problems that are known."""

import base64
import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.ipc
from PIL import Image

from vlm_rl.records import IMAGE_MARK

WORDS = ("How many?", "Bild: ", "计算 ", "\n", "x < 3 ", "$a_1$ ", "see <b>", "{image} ", "'q' ")


@dataclass(frozen=True)
class Truth:
    """What a row says: texts with an image between each two, the answer and what stands beside."""

    texts: Sequence[str]
    images: Sequence[bytes]
    answer: str
    options: Sequence[str] | None
    system: str | None

    @property
    def marked(self) -> str:
        return IMAGE_MARK.join(self.texts)


def draw(rng: random.Random, number: int, most_images: int = 3) -> Truth:
    images = [_png(rng) for _ in range(rng.randint(0, most_images))]
    texts = ["".join(rng.choices(WORDS, k=rng.randint(0, 3))) for _ in images]
    texts.append(f"{rng.choice(WORDS)}case {number}?")
    options = [str(value) for value in rng.sample(range(90), 4)] if rng.random() < 0.3 else None
    answer = rng.choice("ABCD") if options else str(rng.randint(0, 99))
    return Truth(texts, images, answer, options, f"SYS-{number}" if rng.random() < 0.5 else None)


def _png(rng: random.Random) -> bytes:
    size = rng.randint(32, 60), rng.randint(32, 60)
    file = io.BytesIO()
    Image.new("RGB", size, (rng.randrange(256), rng.randrange(256), rng.randrange(256))).save(
        file, "PNG"
    )
    return file.getvalue()


Naming = Callable[[bytes, Path], object]


def _path(content: bytes, folder: Path) -> str:
    name = f"images/{hash(content)}.png"
    (folder / "images").mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return name


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


NAMINGS: dict[str, Naming] = {
    "path": _path,
    "absolute path": lambda content, folder: str(folder / _path(content, folder)),
    "file uri": lambda content, folder: f"file://{folder / _path(content, folder)}",
    "data uri": lambda content, _: f"data:image/png;base64,{_base64(content)}",
    "base64": lambda content, _: _base64(content),
    "object of path": lambda content, folder: {"bytes": None, "path": _path(content, folder)},
    "object of base64": lambda content, _: {"bytes": _base64(content), "path": None},
    "object of image": lambda content, folder: {"image": _path(content, folder)},
    "object of url": lambda content, _: {"url": f"data:image/png;base64,{_base64(content)}"},
    "bytes": lambda content, _: content,
    "object of bytes": lambda content, _: {"bytes": content, "path": "lost.png"},
}
IN_TEXT = [name for name in NAMINGS if "bytes" not in name]
"""Those that JSON can hold."""


def _turns(truth: Truth, content: object, role: str = "role", text: str = "content") -> list[Any]:
    said: object = truth.system
    if isinstance(content, list):  # a column of a table has one type
        said = [{"type": "text", "text": truth.system}]
    before = [] if truth.system is None else [{role: "system", text: said}]
    return [*before, {role: "user" if role == "role" else "human", text: content}]


def _parts(truth: Truth, image_part: Callable[[int], Mapping[str, Any]]) -> list[Any]:
    parts: list[Any] = []
    for number, text in enumerate(truth.texts):
        parts += [image_part(number - 1)] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def _own_columns(truth: Truth) -> dict[str, Any]:
    options = {} if truth.options is None else {"options": [*truth.options]}
    return options | ({} if truth.system is None else {"system": truth.system})


def easyr1(truth: Truth, images: list[Any]) -> dict[str, Any]:
    row = {"problem": truth.marked, "answer": truth.answer, "images": images, "id": 3, "level": 2}
    return row | _own_columns(truth)


def verl(truth: Truth, images: list[Any]) -> dict[str, Any]:
    return {
        "data_source": "geo",
        "prompt": _turns(truth, truth.marked),
        "images": images,
        "reward_model": {"style": "rule", "ground_truth": truth.answer},
        "extra_info": {"split": "train", "index": 4, "answer": "a long way to it"},
    }


def trl(truth: Truth, images: list[Any]) -> dict[str, Any]:
    content = _parts(truth, lambda _: {"type": "image"})
    return {"prompt": _turns(truth, content), "images": images, "solution": truth.answer}


def vlm_r1(truth: Truth, images: list[Any]) -> dict[str, Any]:
    turns = [
        *_turns(truth, truth.marked, "from", "value"),
        {"from": "gpt", "value": f"\\boxed{{{truth.answer}}}"},
    ]
    return {"id": 7, "image": images, "conversations": turns, "accu_reward_method": "default"}


def swift(truth: Truth, images: list[Any]) -> dict[str, Any]:
    solution = f"<answer> {truth.answer} </answer>"
    return {"messages": _turns(truth, truth.marked), "images": images, "solution": solution}


def openai(truth: Truth, images: list[Any]) -> dict[str, Any]:
    content = _parts(truth, lambda n: {"type": "image_url", "image_url": {"url": images[n]}})
    answer = {"role": "assistant", "content": [{"type": "text", "text": truth.answer}]}
    return {"messages": [*_turns(truth, content), answer]}


def inline(truth: Truth, images: list[Any]) -> dict[str, Any]:
    content = _parts(truth, lambda n: {"type": "image", "image": images[n]})
    return {"messages": _turns(truth, content), "solution": truth.answer}


def r1v(truth: Truth, images: list[Any]) -> dict[str, Any]:
    solution = f"<think>so</think><answer>{truth.answer}</answer>"
    return {"image": images, "problem": truth.marked, "solution": solution} | _own_columns(truth)


def question(truth: Truth, images: list[Any]) -> dict[str, Any]:
    numbered = {f"image_{number}": image for number, image in enumerate(images, 1)}
    row = {"question": truth.marked, "answer": truth.answer, "subject": "bars"}
    return row | numbered | _own_columns(truth)


FORMS: dict[str, Callable[[Truth, list[Any]], dict[str, Any]]] = {
    form.__name__: form
    for form in (easyr1, verl, trl, vlm_r1, swift, openai, inline, r1v, question)
}
OWN_COLUMNS = ("easyr1", "r1v", "question")
"""Forms with columns for options; the others have no place for them."""


def _jsonl(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _json(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    file.write_text(json.dumps(rows))


def _csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    flat = [
        {
            name: json.dumps(value) if isinstance(value, list | dict) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    pandas.DataFrame(flat).to_csv(file, index=False)


def _table(rows: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def _parquet(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    pyarrow.parquet.write_table(_table(rows), file)


def _arrow(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    table = _table(rows)
    with pyarrow.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table)


def _tar(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write each row as the .json of a sample; images that lie in files become its members."""
    with tarfile.open(file, "w") as tar:
        for number, row in enumerate(rows):
            content = json.dumps(row).encode()
            info = tarfile.TarInfo(f"{number:04}.json")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


CONTAINERS: dict[str, Callable[[Sequence[Mapping[str, Any]], Path], None]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
    "tar": _tar,
}
