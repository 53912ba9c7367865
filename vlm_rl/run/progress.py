"""What a run prints as it trains: progress bars and one line of metrics per step."""

import re
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from vlm_rl.show.screen import Screen, TaskID, bars
from vlm_rl.training.module import RLModule
from vlm_rl.training.step import Metrics, Step


class ProgressBars(L.Callback):
    """Show a bar over the steps that names the current activity, a bar over each validation, and a
    line of metrics per step."""

    def __init__(self) -> None:
        self._screen = Screen()
        self._bars = bars(self._screen, name_chars=22)
        self._run: TaskID | None = None
        self._validation: TaskID | None = None

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        assert isinstance(module, RLModule)
        done = module.completed_steps
        self._run = self._bars.add_task("starting", total=module.steps, completed=done)
        module.clock.listen(self._show_activity)
        self._bars.start()

    def _show_activity(self, name: str) -> None:
        if name == "validation":
            return  # it has its own bar
        if self._validation is not None:
            self._bars.update(self._validation, description=f"validation: {name}")
        elif self._run is not None:
            self._bars.update(self._run, description=f"training: {name}")

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step: Step = outputs["step"]
        if self._run is not None:
            self._bars.update(self._run, completed=module.completed_steps)
        width = self._screen.width if self._screen.is_terminal else None
        line = training_line(module.completed_steps, module.steps, step.metrics, width)
        self._screen.put(line)
        if step.drift_alarm:
            self._screen.put(f"drift: {step.drift_alarm}", style="bold red")

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
            self._screen.put(line, style="bold")

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        self._bars.stop()

    @rank_zero_only
    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self._bars.stop()


DETAILS = ("grad", "high", "clipped low", "truncated", "entropy")
"""What a narrow terminal does not show, the first first; metrics.csv has it."""


def training_line(step: int, steps: int, metrics: Metrics, width: int | None = None) -> str:
    """Return the line of a step, without what it did not measure, and without details if it would
    be longer than `width` characters."""
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
    parts = {
        label: f"{label} {form.format(metrics[name])}"
        for label, (name, form) in forms.items()
        if name in metrics
    }
    if metrics.get("sampling/empty_step"):
        parts["empty"] = "no group to train on, no update"
    seconds = sum(metrics[name] for name in metrics if re.fullmatch(r"time/\w+_s", name))
    for detail in (*DETAILS, ""):
        line = f"step {step}/{steps}  {'  '.join(parts.values())}  {seconds:.1f} s"
        if width is None or len(line) <= width:
            break
        parts.pop(detail, None)
    return line


def validation_line(step: int, metrics: Metrics) -> str:
    """Return the line of a validation."""
    greedy = metrics.get("val_greedy/accuracy")
    tail = "" if greedy is None else f", greedy {greedy:.1%}"
    return (
        f"step {step}  held out: accuracy {metrics['val/accuracy']:.1%}{tail}, "
        f"length {metrics['val/length_tokens']:.1f} tokens, "
        f"truncated {metrics['val/truncated_frac']:.1%}"
    )
