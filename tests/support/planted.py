"""Faults that are planted into a small run: where they are put, and parts that are wrong."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data_prep.synthetic import DEFAULT_DIFFICULTY, write
from tests.support.places import CONFIGS, TINY_POLICY
from vlm_rl.records import Completion, Groups, Problem, Prompt
from vlm_rl.rewards import RewardTerm
from vlm_rl.rewards.term import each_completion
from vlm_rl.rollout import Sampling, TransformersEngine

NUM_TRAIN, NUM_VAL = 40, 40
TEMPLATE = (TINY_POLICY / "chat_template.jinja").read_text()


def sound_data(folder: Path) -> Path:
    """Write a synthetic set without a repeated problem."""
    write(folder, "train", 2 * NUM_TRAIN, seed=0, difficulty=DEFAULT_DIFFICULTY)
    write(folder, "val", NUM_VAL, seed=0, difficulty=DEFAULT_DIFFICULTY)
    rows = {(row["problem"], row["meta"]["scene"]): row for row in _read(folder / "train.jsonl")}
    _write(folder / "train.jsonl", [*rows.values()][:NUM_TRAIN])
    return folder


@dataclass(frozen=True)
class Bench:
    """A run on `data`, and an empty `folder` for what is changed of it."""

    data: Path
    folder: Path

    def argv(self, more: Sequence[str]) -> list[str]:
        """Return the command line of the quickstart with this data, and `more` after it."""
        sources = [
            f"--data.{key}={json.dumps([{'path': str(self.data / f'{file}.jsonl')}])}"
            for key, file in (("train", "train"), ("val", "val"))
        ]
        own = [f"--run_dir={self.folder / 'run'}", "--logging.wandb=off", "--problems=8"]
        return ["--config", str(CONFIGS / "quickstart.yaml"), *sources, *own, *more]

    def rows(self) -> list[dict[str, Any]]:
        """Return the training rows, with whole paths of images."""
        rows = _read(self.data / "train.jsonl")
        return [row | {"images": [str(self.data / i) for i in row["images"]]} for row in rows]

    def train(self, rows: Sequence[dict[str, Any]], **source: object) -> list[str]:
        """Write rows to train on; return the options."""
        path = _write(self.folder / "mine.jsonl", rows)
        return [f"--data.train={json.dumps([{'path': str(path)} | source])}", "--problems=0"]

    def first_row(self, **changes: object) -> list[str]:
        """Change the first training row."""
        first, *others = self.rows()
        return self.train([first | changes, *others])

    def first_image(self, image: Image.Image, name: str = "own.png") -> list[str]:
        """Change the image of the first training row."""
        image.save(self.folder / name)
        return self.first_row(images=[str(self.folder / name)])

    def checkpoint(self, template: str = TEMPLATE, without: str = "") -> list[str]:
        """Copy the policy with another chat template, or without one of its files."""
        folder = shutil.copytree(TINY_POLICY, self.folder / "policy")
        (folder / "chat_template.jinja").write_text(template)
        if without:
            (folder / without).unlink()
        return [f"--policy.path={folder}"]


class OtherLogprobs(TransformersEngine):
    """Says of every token that it was less likely than it was."""

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        groups = super().generate(prompts, group_size=group_size, sampling=sampling, seed=seed)
        return [[replace(c, sampling_logprobs=c.sampling_logprobs - 1) for c in g] for g in groups]


class SometimesFails(RewardTerm):
    """Cannot score one completion in ten."""

    may_fail = True

    def __init__(self) -> None:
        super().__init__(0.1)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        values = each_completion(groups, lambda completion: float(len(completion)))
        values.view(-1)[::10] = torch.nan
        return values


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
