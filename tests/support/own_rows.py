"""Rows of a user's own for evaluations: problems that the shipped policy knows, images as files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import synthetic
from tests.support.evaluation_helpers import WARM_START
from vlm_rl.evaluate import evaluate


def rows(folder: Path, count: int, *, seed: int = 3) -> list[dict[str, Any]]:
    """Return rows whose images lie in `folder`/pictures, with paths relative to `folder`."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    table = []
    problems = synthetic.generate("train", count, seed=seed, difficulty=(1,))
    for number, problem in enumerate(problems):
        name = f"pictures/{seed}-{number}.png"
        problem.image.save(folder / name)
        row = problem.row("")
        table.append(
            {
                "uid": f"q{number}",
                "problem": row["problem"],
                "answer": row["answer"],
                "images": [name],
                "source": "first" if number % 2 else "second",
            }
        )
    return table


def write(path: Path, table: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path


def command(*files: Path, model: Sequence[object] = (WARM_START,), **changes: object) -> list[str]:
    """Return the command to evaluate models on files; `changes` name keys with `__` for dots."""
    values: dict[str, object] = {
        "prompt.style": "plain",
        "sampling.max_completion_tokens": 40,
        "logging.wandb": "off",
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    models = ["--model", *map(str, model)] if model else []
    options = [f"--{key}={value}" for key, value in values.items() if value is not None]
    return [*models, "--benchmark", *map(str, files), *options]


def run(output: Path, *files: Path, **changes: Any) -> Path:
    evaluate([*command(*files, **changes), f"--output={output}"])
    return output
