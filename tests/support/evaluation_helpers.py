"""A small MathVision in its published schema, and evaluations of it, that several tests share.

The images and questions are those that the shipped tiny policy has learnt, so that some of its
answers are right and some are wrong.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from data_prep import synthetic
from tests.support.run_helpers import REPOSITORY
from tests.support.tiny import png
from vlm_rl.evaluate import evaluate

WARM_START = REPOSITORY / "data_prep" / "warm_start"
TOO_LONG, BROKEN = "long", "broken"
"""Ids of the problems that cannot be asked."""


def rows(count: int) -> list[dict[str, Any]]:
    """Return rows; every third one is a choice between the gold and its neighbours."""
    table = []
    for number, problem in enumerate(synthetic.generate("train", count, seed=3, difficulty=(1,))):
        row = problem.row("")
        options, answer = [], row["answer"]
        if number % 3 == 2:
            options, answer = [str(int(answer) + shift) for shift in (1, 0, 2)], "B"
        table.append(
            {
                "id": str(number),
                "question": row["problem"].replace("<image>", "<image1>"),
                "options": options,
                "answer": answer,
                "image": f"images/{number}.jpg",
                "decoded_image": {"bytes": png(problem.image), "path": None},
                "level": number % 2 + 1,
                "subject": "counting" if number % 2 else "charts",
            }
        )
    return table


def unanswerable() -> list[dict[str, Any]]:
    """Return a prompt above 200 tokens, and an image cut in the middle with its header intact."""
    long, broken = rows(2)
    cut = png(next(synthetic.generate("train", 1, seed=4)).image, "JPEG", quality=95)
    broken["decoded_image"] = {"bytes": cut[:-200], "path": None}
    return [
        long | {"id": TOO_LONG, "question": "Count all of them. " * 200},
        broken | {"id": BROKEN},
    ]


def write(folder: Path, wanted: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / "testmini.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(wanted)), path)
    return path


def command(data: Path, output: Path, **changes: object) -> list[str]:
    """Return the command to evaluate the shipped policy; `changes` name keys with `__` for dots."""
    values: dict[str, object] = {
        "model": WARM_START,
        "data.mathvision": data,
        "output": output,
        "prompt.style": "plain",
        "prompt.max_prompt_tokens": 200,
        "sampling.max_completion_tokens": 40,
        "batch_problems": 3,
        "logging.wandb": "off",
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    options = [f"--{key}={value}" for key, value in values.items() if value is not None]
    return ["--benchmark", "mathvision", *options]


def run(data: Path, output: Path, **changes: object) -> Path:
    evaluate(command(data, output, **changes))
    return output


def reported(output: Path) -> dict[str, Any]:
    """Return the result of the only benchmark in report.json."""
    (result,) = json.loads((output / "report.json").read_text())["benchmarks"]
    return dict(result)


def lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]
