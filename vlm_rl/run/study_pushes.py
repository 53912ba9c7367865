"""Did mean length go where each run pushed it? A correlation over the runs of each variant."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_rl.disk.files import written_whole
from vlm_rl.metrics.push_course import Correlation, PushPoint
from vlm_rl.show.figures import plt, save
from vlm_rl.show.markdown import Markdown, table

PUSH_PLOT = "pushes.png"

Points = Mapping[str, Mapping[str, Sequence[PushPoint]]]
"""Condition -> variant -> a point per seed: the mean push of the run and its change of length."""


def push_table(points: Points) -> Markdown:
    """Return r with its interval of each variant by condition, and over all conditions."""
    variants = list(dict.fromkeys(variant for of in points.values() for variant in of))
    rows = {
        condition: [_text(of.get(variant, ())) for variant in variants]
        for condition, of in points.items()
    }
    rows["all conditions"] = [
        _text([point for of in points.values() for point in of.get(variant, ())])
        for variant in variants
    ]
    listed = [[name, *cells] for name, cells in rows.items()]
    return table(("push against change of length", *variants), listed)


def _text(points: Sequence[PushPoint]) -> str:
    found = Correlation.of(points)
    return found.text() if found else f"too few or equal, n {len(points)}"


def plot_pushes(points: Points, target: Path) -> None:
    """Draw a point per run, a panel per condition."""
    figure, axes = plt.subplots(
        1, len(points), figsize=(6 * len(points), 4), layout="constrained", squeeze=False
    )
    for axis, (condition, of) in zip(axes[0], points.items(), strict=True):
        for variant, own in of.items():
            if own:
                pushes, changes = zip(*own, strict=True)
                axis.scatter(pushes, changes, s=18, label=variant)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(f"{condition}: each run")
        axis.set_xlabel("mean push of its updates")
        axis.set_ylabel("change of length in tokens, held out")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    with written_whole(target) as partial:
        save(figure, partial)
