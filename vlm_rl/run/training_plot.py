"""The plot of a training: what one looks at first, by step."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from scipy.stats import binomtest

from vlm_rl.disk.files import written_whole
from vlm_rl.metrics.panels import (
    ACCURACY,
    CLIPPING,
    ENTROPY,
    GRADIENT,
    GROUPS,
    LENGTH,
    REWARD,
    Panel,
)
from vlm_rl.show.figures import Axes, PercentFormatter, plt, save
from vlm_rl.training.step import Metrics

WINDOWS = 20
"""A curve is smoothed over one in so many of its points, which stand behind it as they are."""


def plot_training(
    metrics: Sequence[Metrics], target: Path, *, title: str = "", num_held_out: int = 0
) -> None:
    """Draw the course of a run into one PNG.

    Args:
        title: above the charts.
        num_held_out: problems behind each held-out accuracy, whose 95 % interval (Wilson) is
            drawn; 0 draws none.
    """
    stages = sorted({n for row in metrics for n in row if n.startswith("time/") and _is_stage(n)})
    tasks = sorted({n for row in metrics for n in row if _is_task(n)})
    panels = [
        REWARD,
        ACCURACY,
        Panel("held-out accuracy by task", {n: n.split("/")[1] for n in tasks}, is_share=True),
        LENGTH,
        GROUPS,
        CLIPPING,
        ENTROPY,
        GRADIENT,
        Panel("seconds of a step", {n: n[5:-2] for n in stages}),
    ]
    figure, axes = plt.subplots(3, 3, figsize=(15, 10.5), layout="constrained")
    for axis, panel in zip(axes.flat, panels, strict=True):
        for name, label in panel.curves.items():
            _draw(axis, name, label, [(row["step"], row[name]) for row in metrics if name in row])
            if panel is ACCURACY and name.startswith("val") and num_held_out:
                _draw_intervals(axis, metrics, name, num_held_out)
        axis.set_title(panel.title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if panel.is_share:
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        if axis.has_data():
            axis.legend(fontsize="small", framealpha=0.6)
    figure.suptitle(title)
    with written_whole(target) as partial:
        save(figure, partial)


def _draw(axis: Axes, name: str, label: str, points: Sequence[tuple[float, float]]) -> None:
    if not points:
        return
    steps, values = zip(*points, strict=True)
    if name.startswith("val"):
        axis.plot(steps, values, label=label, marker="o", linewidth=1.4)
        return
    width = len(values) // WINDOWS
    [line] = axis.plot(steps, _smooth(values, width), label=label, linewidth=1.6)
    if width:
        axis.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8)


def _smooth(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of each value and of `width` on either side, as far as there are."""
    return [fmean(values[max(0, i - width) : i + width + 1]) for i in range(len(values))]


def _draw_intervals(axis: Axes, metrics: Sequence[Metrics], name: str, number: int) -> None:
    color = axis.get_lines()[-1].get_color()
    for row in metrics:
        if name in row:
            right = round(row[name] * number)
            low, high = binomtest(right, number).proportion_ci(method="wilson")
            axis.vlines(row["step"], low, high, color=color, alpha=0.5, linewidth=1.2)


def _is_task(name: str) -> bool:
    return name.startswith("val/") and name.endswith("/accuracy") and name.count("/") == 2


def _is_stage(name: str) -> bool:
    return name.endswith("_s") and name.count("/") == 1
