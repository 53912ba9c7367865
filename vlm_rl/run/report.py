"""What a run leaves at its end: a plot of the training, summary.json and the last screen."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from vlm_rl import ranks
from vlm_rl.disk.files import write_text, written_whole
from vlm_rl.health import Illness
from vlm_rl.metrics.devices import GB, peak_resident_bytes, peak_resident_bytes_of_children
from vlm_rl.run import folder as run_folder
from vlm_rl.run.length_report import PLOT
from vlm_rl.run.metrics_csv import METRICS, read_metrics
from vlm_rl.run.training_plot import plot_training
from vlm_rl.show.figures import plt, save
from vlm_rl.show.screen import Screen, Table
from vlm_rl.training.module import RLModule


def plot_stages(seconds: Mapping[str, float], target: Path) -> None:
    """Draw where the time went, the longest stage first, into one PNG."""
    ordered = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    total = sum(ordered.values())
    wedges, *_ = axis.pie([*ordered.values()], startangle=90, counterclock=False)
    labels = [f"{name}  {spent:.3g} s  {spent / total:.1%}" for name, spent in ordered.items()]
    figure.legend(wedges, labels, loc="outside right center", frameon=False)
    axis.set_title(f"{total:.3g} s by stage")
    with written_whole(target) as partial:
        save(figure, partial)


class Summary(L.Callback):
    """Write the plot and summary.json when training ends, and print the last screen."""

    def __init__(self, run_dir: Path, findings: Sequence[Illness]) -> None:
        self.run_dir = run_dir
        self.findings = findings

    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        assert isinstance(module, RLModule)
        # only the rank that tried to decode a broken image knows of it
        data = getattr(trainer, "datamodule", None)
        own = getattr(data, "skipped", [])
        skipped = dict.fromkeys(row for rows in ranks.gather([*own]) for row in rows)
        if trainer.is_global_zero:
            sets = {"train": "train_set", "held_out": "val_set"}
            counts = {kind: len(getattr(data, name, ())) for kind, name in sets.items()}
            self._write(module, counts, Counter(row.reason for row in skipped))

    def _write(
        self, module: RLModule, num_problems: Mapping[str, int], skipped: Mapping[str, int]
    ) -> None:
        metrics = read_metrics(self.run_dir / METRICS)
        plot = self.run_dir / "plots" / "training.png"
        title = f"{self.run_dir.name}: {type(module.objective).__name__}"
        plot_training(metrics, plot, title=title, num_held_out=num_problems["held_out"])
        stages = self.run_dir / "plots" / "stages.png"
        plot_stages(module.clock.seconds, stages)
        summary = _summarise(self.run_dir, module, skipped)
        summary["num_problems"] = num_problems
        summary["health"] = [finding._asdict() for finding in self.findings]
        summary["files"]["plots"] = str(plot)
        summary["files"]["stages"] = str(stages)
        lengths = self.run_dir / "plots" / f"step_{module.completed_steps}" / PLOT
        if lengths.exists():
            summary["files"]["lengths"] = str(lengths)
        if (self.run_dir / "wandb").exists():
            summary["files"]["wandb"] = str(self.run_dir / "wandb")
        target = self.run_dir / run_folder.SUMMARY
        write_text(target, json.dumps(summary, indent=2) + "\n")
        print_summary(summary, target)


def _summarise(run_dir: Path, module: RLModule, skipped: Mapping[str, int]) -> dict[str, Any]:
    history = module.validation_history
    newest, best = run_folder.newest_checkpoint(run_dir), run_folder.best_checkpoint(run_dir)
    return {
        "steps": module.completed_steps,
        "validation_before": history[0] if history else {},
        "validation_after": history[-1] if history else {},
        "stage_seconds": {k: round(v, 2) for k, v in module.clock.seconds.items()},
        "skipped_rows": dict(skipped),
        "skipped_updates": module.skipped_updates,
        "peak_memory_gb": round(_peak_memory_gb(), 2),
        "files": {
            "checkpoint": str(newest.folder / "hf") if newest else None,
            "best_checkpoint": str(best.folder / "hf") if best else None,
            "metrics": str(run_dir / METRICS),
            "rollouts": str(run_dir / "rollouts"),
        },
    }


def _peak_memory_gb() -> float:
    """Return the peak resident memory of this process, or of its largest child if that is more."""
    return max(peak_resident_bytes(), peak_resident_bytes_of_children()) / GB


ROWS = {
    "accuracy, sampled": ("val/accuracy", "{:.1%}"),
    "accuracy, greedy": ("val_greedy/accuracy", "{:.1%}"),
    "length, sampled (tokens)": ("val/length_tokens", "{:.1f}"),
    "length, greedy (tokens)": ("val_greedy/length_tokens", "{:.1f}"),
    "truncated, sampled": ("val/truncated_frac", "{:.1%}"),
}


def print_summary(summary: Mapping[str, Any], target: Path) -> None:
    """Print held-out numbers before and after, time by activity, and where everything is."""
    screen = Screen()
    before, after = summary["validation_before"], summary["validation_after"]
    table = Table(title=f"{summary['steps']} steps, held-out problems")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, (name, form) in ROWS.items():
        if name in before and name in after:
            table.add_row(label, form.format(before[name]), form.format(after[name]))
    screen.print(table)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in summary["stage_seconds"].items())
    screen.put(f"time: {seconds}; peak memory {summary['peak_memory_gb']} GB")
    for reason, count in summary["skipped_rows"].items():
        screen.put(f"skipped rows: {count} x {reason}")
    if summary["skipped_updates"]:
        screen.put(f"skipped updates: {len(summary['skipped_updates'])}")
    for finding in summary["health"]:
        screen.put(f"health: {Illness(**finding).line}", style="bold yellow")
    for name, path in {**summary["files"], "summary": str(target)}.items():
        if path is not None:
            screen.put(f"{name.replace('_', ' ')}: {path}")
