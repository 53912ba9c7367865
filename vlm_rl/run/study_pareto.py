"""Accuracy against tokens of a study's variants: which are beaten on both sides by another?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vlm_rl.disk.files import written_whole
from vlm_rl.show.figures import Axes, plt, save

PARETO_PLOT = "pareto.png"


class Reached(NamedTuple):
    """What a variant has reached, means over seeds: tokens, accuracy in %, and the half widths of
    their 95 % intervals."""

    tokens: float
    accuracy: float
    tokens_half: float
    accuracy_half: float


def front(points: Mapping[str, Reached]) -> list[str]:
    """Return the variants that no other beats: at most as many tokens, at least as accurate, and
    better in one of the two. Shortest first."""
    kept = [
        name
        for name, own in points.items()
        if not any(
            other.tokens <= own.tokens
            and other.accuracy >= own.accuracy
            and (other.tokens, other.accuracy) != (own.tokens, own.accuracy)
            for other in points.values()
        )
    ]
    return sorted(kept, key=lambda name: points[name].tokens)


def plot_pareto(conditions: Mapping[str, Mapping[str, Reached]], target: Path) -> None:
    """Draw a panel per condition, a point with its intervals per variant, and the front."""
    count = len(conditions)
    size = (7 * count, 5)
    figure, axes = plt.subplots(1, count, figsize=size, layout="constrained", squeeze=False)
    for axis, (condition, points) in zip(axes[0], conditions.items(), strict=True):
        _panel(axis, points, front(points))
        axis.set_title(f"{condition}: after training, mean and 95 % interval over seeds")
    with written_whole(target) as partial:
        save(figure, partial)


def _panel(axis: Axes, points: Mapping[str, Reached], best: Sequence[str]) -> None:
    for name, own in points.items():
        axis.errorbar(
            own.tokens,
            own.accuracy,
            xerr=own.tokens_half,
            yerr=own.accuracy_half,
            marker="o",
            capsize=2,
            linestyle="",
            label=f"{name} (front)" if name in best else name,
        )
    line = [(points[name].tokens, points[name].accuracy) for name in best]
    axis.plot(*zip(*line, strict=True), color="grey", linewidth=0.8, zorder=0)
    axis.set_xlabel("length in tokens, held out")
    axis.set_ylabel("accuracy in %, held out")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
