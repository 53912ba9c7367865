"""What a person sees while a run goes on: progress, every rollout as a file, tables of samples."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vlm_rl.records import Completion, Prompt, Rollout
from vlm_rl.training.module import Metrics, RLModule


class ProgressBars(L.Callback):
    """A bar over the run's steps that names the current stage, one over validation, and one line
    of metrics a step."""

    def __init__(self) -> None:
        self._console = Console()
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._run: TaskID | None = None
        self._validation: TaskID | None = None

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        assert isinstance(module, RLModule)
        done = module.completed_steps
        self._run = self._bars.add_task("starting", total=module.steps, completed=done)
        module.stages.listen(self._stage)
        self._bars.start()

    def _stage(self, name: str) -> None:
        if name == "validation":
            return  # it has a bar of its own
        if self._validation is not None:
            self._bars.update(self._validation, description=f"validation: {name}")
        elif self._run is not None:
            self._bars.update(self._run, description=f"training: {name}")

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None:
            self._bars.update(self._run, completed=module.completed_steps)
        line = training_line(module.completed_steps, module.steps, outputs["metrics"])
        self._console.print(line, soft_wrap=True)
        if outputs["alarm"]:
            self._console.print(f"[bold red]drift: {outputs['alarm']}[/bold red]", soft_wrap=True)

    @rank_zero_only
    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        first = trainer.sanity_checking  # the validation before the first step
        batches = trainer.num_sanity_val_batches if first else trainer.num_val_batches
        self._validation = self._bars.add_task("validation", total=sum(batches))

    @rank_zero_only
    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        if self._validation is not None:
            self._bars.advance(self._validation)

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if self._validation is not None:
            self._bars.remove_task(self._validation)
            self._validation = None
        if module.validation_history:
            newest = module.validation_history[-1]
            line = validation_line(module.completed_steps, newest)
            self._console.print(line, soft_wrap=True)

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        self._bars.stop()

    @rank_zero_only
    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self._bars.stop()


def training_line(step: int, steps: int, metrics: Metrics) -> str:
    """One step in one line; what a step did not measure is left out."""
    forms = {
        "reward": ("reward/mean", "{:.3f}"),
        "accuracy": ("reward/accuracy", "{:.1%}"),
        "length": ("completion/length_tokens", "{:.1f}"),
        "truncated": ("completion/truncated_frac", "{:.1%}"),
        "clipped low": ("policy/clip_frac_low", "{:.1%}"),
        "high": ("policy/clip_frac_high", "{:.1%}"),
        "prompts": ("sampling/prompts_spent", "{:.0f}"),
        "groups missing": ("sampling/missing_groups", "{:.0f}"),
        "grad": ("optim/grad_norm", "{:.3g}"),
        "entropy": ("policy/entropy", "{:.3f}"),
    }
    parts = [
        f"{label} {form.format(metrics[name])}"
        for label, (name, form) in forms.items()
        if name in metrics
    ]
    if metrics.get("sampling/empty_step"):
        parts.append("no group to train on, no update")
    seconds = sum(value for name, value in metrics.items() if name.startswith("time/"))
    return f"step {step}/{steps}  {'  '.join(parts)}  {seconds:.1f} s"


def validation_line(step: int, metrics: Metrics) -> str:
    """One validation in one line."""
    greedy = metrics.get("val_greedy/accuracy")
    tail = "" if greedy is None else f", greedy {greedy:.1%}"
    return (
        f"[bold]step {step}  held out: accuracy {metrics['val/accuracy']:.1%}{tail}, "
        f"length {metrics['val/length_tokens']:.1f} tokens, "
        f"truncated {metrics['val/truncated_frac']:.1%}[/bold]"
    )


def _samples(rollout: Rollout) -> Iterator[tuple[int, Prompt, Completion, dict[str, Any]]]:
    """Every completion of a rollout with its problem's row and what is worth writing down."""
    scores = rollout.scores
    for row, (prompt, group) in enumerate(zip(rollout.prompts, rollout.groups, strict=True)):
        for column, completion in enumerate(group):
            yield (
                row,
                prompt,
                completion,
                {
                    "uid": prompt.uid,
                    "question": prompt.problem.question,
                    "answer": prompt.problem.answer,
                    "completion": completion.text,
                    "verdict": str(scores.verdicts[row][column]),
                    "reward": float(scores.total[row, column]),
                    "terms": {name: float(t[row, column]) for name, t in scores.terms.items()},
                    "length_tokens": len(completion),
                    "finish_reason": completion.finish_reason,
                },
            )


class RolloutFiles(L.Callback):
    """Writes every completion to `rollouts/step_N.jsonl`, one file a step (and process); those of
    groups that dynamic sampling dropped come last, with `trained` false and no advantage."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / "rollouts"

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rank = f"_rank_{trainer.global_rank}" if trainer.world_size > 1 else ""
        target = self.folder / f"step_{module.completed_steps:06d}{rank}.jsonl"
        dropped = [(sample, None) for sample in _samples(outputs["dropped"])]
        advantages = outputs["advantages"].flatten().tolist()
        trained = zip(_samples(outputs["rollout"]), advantages, strict=True)
        with target.open("w") as file:
            for (_, _, completion, fields), advantage in (*trained, *dropped):
                fields["trained"] = advantage is not None
                fields["advantage"] = advantage
                fields["token_ids"] = completion.token_ids.tolist()
                file.write(json.dumps(fields, ensure_ascii=False) + "\n")


class SampleTable(L.Callback):
    """A W&B table of sampled held-out problems at every validation: picture, text, verdict."""

    COLUMNS = ("step", "image", "question", "answer", "completion", "verdict", "reward", "length")

    def __init__(self, num_problems: int = 8) -> None:
        self.num_problems = num_problems

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or batch_idx > 0 or not outputs:
            return
        import wandb

        rows = [
            [
                module.completed_steps,
                wandb.Image(_strip(prompt)) if prompt.images else None,
                fields["question"],
                fields["answer"],
                fields["completion"],
                fields["verdict"],
                fields["reward"],
                fields["length_tokens"],
            ]
            for row, prompt, _, fields in _samples(outputs["rollout"])
            if row < self.num_problems
        ]
        for logger in loggers:
            logger.log_table("samples", columns=list(self.COLUMNS), data=rows)


def _strip(prompt: Prompt) -> Image.Image:
    """The images of a prompt side by side."""
    width = sum(image.width for image in prompt.images)
    strip = Image.new("RGB", (width, max(image.height for image in prompt.images)))
    offset = 0
    for image in prompt.images:
        strip.paste(image, (offset, 0))
        offset += image.width
    return strip
