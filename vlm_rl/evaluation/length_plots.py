"""The plot of lengths of one benchmark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vlm_rl.disk.files import written_whole
from vlm_rl.evaluation.lengths import LengthMeasures
from vlm_rl.show.figures import Axes, plt, save

_COLORS = {"correct": "C2", "wrong": "C3", "unparsable": "C1", "timeout": "C7", "error": "C7"}
_MOST_CELLS = 12


def plot_lengths(measures: LengthMeasures, target: Path) -> bool:
    """Plot the spread by problem, lengths by difficulty and verdict, and thinking against answer.

    Returns False, and plots nothing, if no length is known.
    """
    if not measures.problems:
        return False
    panels: list[Callable[[Axes, LengthMeasures], None]] = [_by_problem, _by_cell, _by_part]
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.6), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis, measures)
    figure.suptitle(f"{measures.benchmark}: lengths of {measures.num_responses} responses")
    with written_whole(target) as partial:
        save(figure, partial)
    return True


def _by_problem(axis: Axes, measures: LengthMeasures) -> None:
    spreads = sorted((one.spread for one in measures.problems), key=lambda one: one.mean)
    places = np.arange(1, len(spreads) + 1)
    marker = "o" if len(spreads) <= 60 else ""
    # steps, so that a single problem has a width too
    edges: dict[str, Any] = {"step": "mid", "linewidth": 0}
    if any(one.num_samples > 1 for one in spreads):
        shortest, longest = [one.shortest for one in spreads], [one.longest for one in spreads]
        p25, p75 = [one.p25 for one in spreads], [one.p75 for one in spreads]
        axis.fill_between(
            places, shortest, longest, color="C0", alpha=0.15, label="shortest to longest", **edges
        )
        axis.fill_between(places, p25, p75, color="C0", alpha=0.35, label="p25 to p75", **edges)
    means = [one.mean for one in spreads]
    axis.plot(places, means, color="C0", marker=marker, markersize=3, linewidth=1.2, label="mean")
    axis.set_ylim(bottom=0)
    axis.set_title("responses to each problem")
    axis.set_xlabel("problems, by mean length")
    axis.set_ylabel("tokens")
    axis.grid(alpha=0.3)
    axis.legend()


def _by_cell(axis: Axes, measures: LengthMeasures) -> None:
    """Plot the largest cells, if there are too many to read."""
    largest = sorted(measures.cells, key=lambda cell: -cell.num_responses)[:_MOST_CELLS]
    shown = [cell for cell in measures.cells if cell in largest]
    several = len({cell.source for cell in measures.cells}) > 1
    labels = [
        f"{f'{cell.source[:16]}, ' if several else ''}{cell.difficulty}, {cell.verdict} "
        f"({cell.num_responses})"
        for cell in shown
    ]
    places = range(len(shown))
    colors = [_COLORS[cell.verdict] for cell in shown]
    axis.barh(places, [cell.mean for cell in shown], color=colors, alpha=0.4, height=0.7)
    axis.plot([cell.median for cell in shown], places, "|", color="0.2", markersize=14)
    axis.plot([cell.p90 for cell in shown], places, ">", color="0.2", markersize=5)
    axis.set_yticks(places, labels)
    axis.invert_yaxis()
    kind = "share right" if measures.by_share else "difficulty of the row"
    left_out = len(measures.cells) - len(shown)
    largest_of = f", the {_MOST_CELLS} largest of {len(measures.cells)}" if left_out else ""
    axis.set_title(f"by {kind} and verdict{largest_of}")
    axis.set_xlabel("tokens: mean (bar), median (|), p90 (>)")
    axis.grid(alpha=0.3, axis="x")


def _by_part(axis: Axes, measures: LengthMeasures) -> None:
    known = {
        kind: (part.thinking_tokens, part.answer_tokens)
        for kind, part in measures.parts.items()
        if part.thinking_tokens is not None and part.answer_tokens is not None
    }
    unit = "tokens"
    if not known:
        unit = "characters"
        known = {kind: (p.thinking_chars, p.answer_chars) for kind, p in measures.parts.items()}
    places = range(len(known))
    thinking = [pair[0] for pair in known.values()]
    axis.bar(places, thinking, color="C4", alpha=0.6, label="thinking")
    answer = [pair[1] for pair in known.values()]
    axis.bar(places, answer, bottom=thinking, color="C9", alpha=0.6, label="answer")
    labels = [
        f"{kind}\n{measures.parts[kind].repeated_frac:.0%} repeated,\n"
        f"{measures.parts[kind].looping_frac:.0%} loop"
        for kind in known
    ]
    axis.set_xticks(places, labels)
    axis.set_title("where the length goes")
    axis.set_ylabel(f"mean {unit}")
    axis.grid(alpha=0.3, axis="y")
    axis.legend()
