"""Completions to read: every one in a file, some of the held-out ones in a table."""

import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from vlm_rl.disk.files import write_bytes
from vlm_rl.records import Completion, Prompt, Rollout
from vlm_rl.run.token_lines import token_lines
from vlm_rl.show.json_text import json_text
from vlm_rl.trackers import Tracker
from vlm_rl.training.step import Step


@dataclass(frozen=True)
class _Sampled:
    """A completion of a rollout: the index of its group, and the `fields` to write."""

    group: int
    prompt: Prompt
    completion: Completion
    fields: dict[str, Any]


def _samples(rollout: Rollout) -> Iterator[_Sampled]:
    """Yield every completion of a rollout with what is written of it."""
    scores = rollout.scores
    for row, (prompt, group) in enumerate(zip(rollout.prompts, rollout.groups, strict=True)):
        for column, completion in enumerate(group):
            fields = {
                "uid": prompt.uid,
                "source": prompt.problem.source,
                "question": prompt.problem.question,
                "answer": prompt.problem.answer,
                "images": [*map(_name, prompt.image_keys)],
                "completion": completion.text,
                "verdict": str(scores.verdicts[row][column]),
                "rule": scores.rules[row][column] if scores.rules else "",
                "reward": float(scores.total[row, column]),
                "terms": {name: float(t[row, column]) for name, t in scores.parts.items()},
                "length_tokens": len(completion),
                "finish_reason": completion.finish_reason,
            }
            yield _Sampled(row, prompt, completion, fields)


class RolloutFiles(L.Callback):
    """Write every completion to `rollouts/step_N.jsonl`, one file per step (and rank).

    Completions of groups that dynamic sampling dropped come last, with `trained` false and no
    advantage. A long run bounds what this takes: `every_n_steps` writes those steps only,
    `keep_last` deletes all but the newest files, `compress` makes them a `.jsonl.gz`.

    Beside them lie the images as the model saw them, each once, in `images/`, up to `max_image_mib`
    MiB of each rank; and what the last update did to each token of `token_groups` groups (of each
    rank) in `tokens/step_N.jsonl`, some 40 bytes a token. 0 writes none.
    """

    def __init__(
        self,
        run_dir: Path,
        every_n_steps: int = 1,
        keep_last: int | None = None,
        compress: bool = False,
        max_image_mib: int = 200,
        token_groups: int = 1,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("keep_last", keep_last)):
            if value is not None and value < 1:
                raise ValueError(f"rollouts.{name} must be >= 1, got {value}")
        for name, value in (("max_image_mib", max_image_mib), ("token_groups", token_groups)):
            if value < 0:
                raise ValueError(f"rollouts.{name} must be >= 0, got {value}; 0 writes none")
        self.folder = run_dir / "rollouts"
        self.token_folder = run_dir / "tokens"
        self.token_groups = token_groups
        self.images = ImageFolder(run_dir / "images", max_image_mib * 2**20)
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self.compress = compress

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.completed_steps % self.every_n_steps:
            return
        step: Step = outputs["step"]
        rank = f"_rank_{trainer.global_rank}" if trainer.world_size > 1 else ""
        suffix = ".jsonl.gz" if self.compress else ".jsonl"
        name = f"step_{module.completed_steps:06d}{rank}{suffix}"
        dropped = [(sample, None) for sample in _samples(step.dropped)]
        advantages = step.advantages.flatten().tolist()
        trained = zip(_samples(step.rollout), advantages, strict=True)
        lines = []
        for sample, advantage in (*trained, *dropped):
            fields = sample.fields | {
                "trained": advantage is not None,
                "advantage": advantage,
                "token_ids": sample.completion.token_ids.tolist(),
            }
            lines.append(fields)
        self._write(self.folder / name, lines)
        if self.token_groups:
            of_tokens = [*token_lines(step, module.encoder.tokenizer, self.token_groups)]
            self._write(self.token_folder / name, of_tokens)
        for prompt in (*step.rollout.prompts, *step.dropped.prompts):
            self.images.add(prompt)
        if self.keep_last is not None:
            for folder in (self.folder, self.token_folder):
                for old in sorted(folder.glob(f"step_*{rank}{suffix}"))[: -self.keep_last]:
                    old.unlink()

    def _write(self, target: Path, lines: Iterable[dict[str, Any]]) -> None:
        text = "".join(json_text(line) + "\n" for line in lines).encode()
        # without the time, so that a resumed run writes the same bytes
        write_bytes(target, gzip.compress(text, mtime=0) if self.compress else text)


class ImageFolder:
    """The images of prompts as JPEG files, named by their content, of at most `max_bytes`.

    The bytes of files that were there before count too.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._names: set[str] = set()
        self._bytes: int | None = None

    def add(self, prompt: Prompt) -> None:
        """Write those images of a prompt that are new, while there is room."""
        if self._bytes is None:
            there = [*self.folder.glob("*.jpg")]
            self._names, self._bytes = {p.name for p in there}, sum(p.stat().st_size for p in there)
        for key, image in zip(prompt.image_keys, prompt.images, strict=True):
            name = _name(key)
            if name in self._names or self._bytes >= self.max_bytes:
                continue
            file = io.BytesIO()
            # without subsampling, which would blur thin coloured lines of charts
            image.save(file, "JPEG", quality=90, subsampling=0)
            self._names.add(name)
            self._bytes += file.tell()
            write_bytes(self.folder / name, file.getvalue())


def _name(key: bytes) -> str:
    """Return the name of the file of an image."""
    return f"{key.hex()[:32]}.jpg"


class SampleTable(L.Callback):
    """Log a table of sampled held-out problems at every validation: image, text, verdict."""

    COLUMNS = ("step", "image", "question", "answer", "completion", "verdict", "reward", "length")

    def __init__(self, num_problems: int = 8) -> None:
        self.num_problems = num_problems

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if not trainer.loggers or batch_idx > 0 or not outputs:
            return
        rows = [
            [
                module.completed_steps,
                _side_by_side(sample.prompt) if sample.prompt.images else None,
                sample.fields["question"],
                sample.fields["answer"],
                sample.fields["completion"],
                sample.fields["verdict"],
                sample.fields["reward"],
                sample.fields["length_tokens"],
            ]
            for sample in _samples(outputs["rollout"])
            if sample.group < self.num_problems
        ]
        for logger in trainer.loggers:
            if isinstance(logger, Tracker):
                logger.show_samples(module.completed_steps, self.COLUMNS, rows)


def _side_by_side(prompt: Prompt) -> Image.Image:
    """Return the images of a prompt side by side."""
    width = sum(image.width for image in prompt.images)
    joined = Image.new("RGB", (width, max(image.height for image in prompt.images)))
    offset = 0
    for image in prompt.images:
        joined.paste(image, (offset, 0))
        offset += image.width
    return joined
