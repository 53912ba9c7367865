"""What a run shows of length fairness: metrics, a file, one plot per validation, W&B."""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from vlm_rl.disk.files import write_text, written_whole
from vlm_rl.distributed import gather
from vlm_rl.metrics.length import LengthBin, LengthReport, LengthWindow
from vlm_rl.metrics.push_course import LENGTH, PUSHES, Correlation, changes, course_of
from vlm_rl.show.figures import Axes, plt, save
from vlm_rl.trackers.wandb_table import wandb_table
from vlm_rl.training.module import RLModule
from vlm_rl.training.step import Step

PLOT = "length_fairness.png"
REPORTS = "length_fairness.json"


class LengthFairness(L.Callback):
    """Report length fairness over the last `window_steps` steps at every validation.

    Logs `length/...` metrics, adds a report to `length_fairness.json`, and draws
    `plots/step_N/length_fairness.png`; W&B gets the same.

    The window, the course of pushes and lengths over its steps, and the reports so far are part of
    the checkpoint.
    """

    def __init__(self, run_dir: Path, window_steps: int = 100) -> None:
        if window_steps < 1:
            raise ValueError(f"length_fairness.window_steps must be >= 1, got {window_steps}")
        self.run_dir = run_dir
        self.window = LengthWindow(window_steps)
        self.course: list[dict[str, float]] = []
        self.reports: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step: Step = outputs["step"]
        if step.sequences:  # those of all ranks, so that each rank has the same window
            dropped = gather.rollout(step.dropped) if step.any_dropped else step.dropped
            self.window.add(step.sequences, step.everyone, dropped)
            self.course.append(course_of(step.metrics))
            del self.course[: -self.window.window_steps]

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        """Report at the start, so that the checkpoint after the validation has the report."""
        assert isinstance(module, RLModule)
        step = module.completed_steps
        if any(report["step"] == step for report in self.reports):
            return  # the run was stopped within this validation
        report = None if trainer.sanity_checking else self.window.report()
        if report is None:
            return
        self.reports.append({"step": step, **report.plain()})
        module.log_metrics(report.metrics)
        self._write(trainer, report, step)

    @rank_zero_only
    def _write(self, trainer: L.Trainer, report: LengthReport, step: int) -> None:
        write_text(self.run_dir / REPORTS, json.dumps(self.reports, indent=1) + "\n")
        plot = self.run_dir / "plots" / f"step_{step}" / PLOT
        plot_length_fairness(report, self.window.lengths(), self.course, plot)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                _show_in_wandb(logger, report, plot)

    def state_dict(self) -> dict[str, Any]:
        window = self.window.state_dict()
        return {"window": window, "course": self.course, "reports": self.reports}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.window.load_state_dict(state_dict["window"])
        self.course = list(state_dict["course"])
        self.reports = list(state_dict["reports"])


def _show_in_wandb(logger: WandbLogger, report: LengthReport, plot: Path) -> None:
    """Log the plot, a table of the bins, and a panel that draws the newest table."""
    import wandb

    columns = list(report.plain()["bins"][0])
    rows = [list(part.values()) for part in report.plain()["bins"]]
    table = wandb_table(columns, rows)
    logger.log_metrics(
        {
            "length/fairness": wandb.Image(str(plot)),
            "length/bins": table,
            "length/acceptance": wandb.plot.line(
                table, "mean_length", "accepted", title="share of gradients kept, by length"
            ),
        }
    )


def plot_length_fairness(
    report: LengthReport,
    lengths: Mapping[str, Tensor],
    course: Sequence[Mapping[str, float]],
    target: Path,
) -> None:
    """Draw acceptance, clipping and gradient weight by length, lengths by verdict, and pushes
    beside what mean length did over the steps of `course`."""
    figure, axes = plt.subplots(3, 2, figsize=(11, 11), layout="constrained")
    _plot_acceptance(axes[0, 0], report)
    _plot_clipping(axes[0, 1], report.bins)
    _plot_weights(axes[1, 0], report.bins)
    _plot_lengths(axes[1, 1], lengths)
    _plot_course(axes[2, 0], course)
    _plot_changes(axes[2, 1], course)
    figure.suptitle(
        "LRE, length reweighting error: 0 where the clip treats all lengths alike; "
        "its floor is what chance alone gives"
    )
    with written_whole(target) as partial:
        save(figure, partial)


def _plot_acceptance(axis: Axes, report: LengthReport) -> None:
    labels = {
        "inside": "inside the band" + _lre(report.lre_inside, report.lre_inside_floor),
        "accepted": "gradient kept" + _lre(report.lre_accepted, report.lre_accepted_floor),
    }
    for name, label in labels.items():
        _curve(axis, report.bins, name, label)
    counts = [part.num_sequences for part in report.bins]
    axis.set_title(f"acceptance q(L), {min(counts)} to {max(counts)} sequences a bin")
    _finish(axis, "length in tokens", bottom=0)


def _lre(value: float | None, floor: float | None) -> str:
    return "" if value is None or floor is None else f", LRE {value:.3f} (floor {floor:.3f})"


def _plot_clipping(axis: Axes, bins: Sequence[LengthBin]) -> None:
    for name, label in {
        "clipped_low": "lower end, A < 0",
        "clipped_high": "upper end, A > 0",
        "clipped_dual": "dual clip, A < 0",
    }.items():
        _curve(axis, bins, name, label)
    axis.set_title("share of tokens cut off from the gradient")
    _finish(axis, "length in tokens", bottom=0)


def _plot_weights(axis: Axes, bins: Sequence[LengthBin]) -> None:
    _curve(axis, bins, "weight_first", "at ratio 1")
    _curve(axis, bins, "weight", "later updates, clipped tokens at 0")
    axis.set_title("gradient weight of a token")
    _finish(axis, "length in tokens", bottom=0)


def _plot_lengths(axis: Axes, lengths: Mapping[str, Tensor]) -> None:
    longest = max((int(part.max()) for part in lengths.values() if len(part)), default=1)
    for kind, part in lengths.items():
        if len(part):
            label = f"{kind}: {len(part)}, mean {part.double().mean():.1f} tokens"
            axis.hist(part.numpy(), bins=40, range=(0, longest), histtype="step", label=label)
    axis.set_title("lengths of the completions")
    _finish(axis, "length in tokens")


def _plot_course(axis: Axes, course: Sequence[Mapping[str, float]]) -> None:
    """Draw mean length, and the pushes added up so far on an axis of their own."""
    axis.plot([step[LENGTH] for step in course], color="black", label="mean length")
    beside = axis.twinx()
    for name in PUSHES:
        added = [*accumulate(step[name] for step in course)]
        beside.plot(added, linewidth=1.2, label=f"{name}, added up")
    beside.legend(loc="lower left")
    beside.set_ylabel("pushes")
    axis.set_ylabel("tokens")
    axis.set_title("mean length of training rollouts")
    _finish(axis, "step of the window")


def _plot_changes(axis: Axes, course: Sequence[Mapping[str, float]]) -> None:
    """Draw a point for each block of steps and kind of push."""
    for name in PUSHES:
        points = changes(course, name)
        found = Correlation.of(points)
        if points:
            label = f"{name}: {found.text() if found else 'too few blocks'}"
            predicted, measured = zip(*points, strict=True)
            axis.scatter(predicted, measured, s=14, label=label)
    axis.set_title("push of a block of steps, and what mean length did, in tokens")
    _finish(axis, "predicted push, deviations of length per sqrt(2 KL)")


def _curve(axis: Axes, bins: Sequence[LengthBin], name: str, label: str) -> None:
    points = [(b.mean_length, v) for b in bins if (v := getattr(b, name)) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker="o", linewidth=1.4, label=label)


def _finish(axis: Axes, xlabel: str, bottom: float | None = None) -> None:
    axis.set_xlabel(xlabel)
    axis.set_ylim(bottom=bottom)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
