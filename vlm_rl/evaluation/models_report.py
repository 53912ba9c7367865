"""The table of several models: models.md, models.json, and accuracy against tokens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm_rl.disk.files import write_text, written_whole
from vlm_rl.evaluation.intervals import Difference
from vlm_rl.evaluation.markdown import interval, p_text, per_right
from vlm_rl.evaluation.models import ModelsTable, Standing, Standings
from vlm_rl.evaluation.pareto import DRAWS, ParetoPoint
from vlm_rl.show.figures import Axes, plt, save
from vlm_rl.show.json_text import json_text
from vlm_rl.show.markdown import Markdown, image, table
from vlm_rl.show.screen import Screen, Table

MODELS = "models.md"
RESULTS = "models.json"
PARETO = "pareto.png"

HOW = (
    "Accuracies are in percent, with the 95 % interval in brackets. Differences are to the first "
    "model, question by question, in points and tokens; p is two-sided, after Holm's correction "
    "for all differences of this page. *Pareto*: no other model is at least as accurate with at "
    f"most as many tokens; in brackets, in how many of {DRAWS:,} draws of the questions that is so."
)


def write_models(models: ModelsTable, folder: Path) -> None:
    """Write models.md, models.json and, if lengths are known, the plot into `folder`."""
    drawn = plot_pareto(models, folder / PARETO)
    write_text(folder / MODELS, models_markdown(models, plot=PARETO if drawn else None))
    write_text(folder / RESULTS, json_text(models.plain(), indent=1) + "\n")


def models_markdown(models: ModelsTable, *, plot: str | None = None) -> Markdown:
    parts = [Markdown("# Models"), Markdown(HOW), *([image(plot)] if plot else [])]
    for one in models.benchmarks:
        parts.append(Markdown("## {}").format(one.benchmark))
        parts.append(table(HEADINGS, [_row(standing) for standing in one.models]))
    return Markdown("\n\n").join(parts) + Markdown("\n")


HEADINGS = (
    "model",
    "questions",
    "accuracy",
    "difference",
    "p, Holm",
    "tokens",
    "tokens, difference",
    "tokens per right answer",
    "Pareto",
    "dominated by",
)


def _row(one: Standing) -> tuple[str, ...]:
    return (
        one.model,
        str(one.accuracy.num_questions),
        interval(one.accuracy),
        "-" if one.difference is None else interval_of(one.difference, 100),
        p_text(one.holm_p),
        "-" if one.spent is None else tokens(one.spent.mean),
        "-" if one.length is None else interval_of(one.length, 1),
        "-" if one.spent is None else per_right(one.spent.per_correct),
        _kept(one.pareto),
        ", ".join(one.pareto.dominated_by) if one.pareto else "",
    )


def tokens(mean: float) -> str:
    return f"{mean:,.{0 if mean >= 100 else 1}f}"


def interval_of(difference: Difference, scale: float) -> str:
    """Return a signed difference times `scale` with its interval, if it has one."""
    digits = 1 if scale > 1 or abs(difference.mean) < 10 else 0
    mean = f"{scale * difference.mean:+,.{digits}f}"
    if difference.low is None or difference.high is None:
        return mean
    ends = (f"{scale * end:+,.{digits}f}" for end in (difference.low, difference.high))
    return f"{mean} [{', '.join(ends)}]"


def _kept(point: ParetoPoint | None) -> str:
    if point is None:
        return "-"
    return f"{'yes' if point.is_kept else 'no'} ({point.kept_frac:.0%})"


def print_models(models: ModelsTable) -> None:
    """Print the columns that fit into 80 characters, a table for each benchmark."""
    screen = Screen()
    for one in models.benchmarks:
        shown = Table(title=f"{one.benchmark}: accuracy in %, beside {models.names[0]}", box=None)
        for heading in ("model", "accuracy", "difference", "Holm", "tokens", "Pareto"):
            left = heading == "model"
            shown.add_column(
                heading, justify="left" if left else "right", overflow="fold", no_wrap=not left
            )
        for standing in one.models:
            row = dict(zip(HEADINGS, _row(standing), strict=True))
            names = ("model", "accuracy", "difference", "p, Holm", "tokens", "Pareto")
            shown.add_row(*(row[name] for name in names))
        screen.print(shown)


def plot_pareto(models: ModelsTable, target: Path) -> bool:
    """Plot accuracy against tokens with intervals, a panel for each benchmark.

    Returns False, and plots nothing, if no lengths are known.
    """
    known = [one for one in models.benchmarks if any(s.pareto for s in one.models)]
    if not known:
        return False
    columns = min(2, len(known))
    rows = -(-len(known) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(7.2 * columns, 5.2 * rows), layout="constrained", squeeze=False
    )
    for axis, one in zip(axes.flat, known, strict=False):
        _panel(axis, one)
    for axis in axes.flat[len(known) :]:
        axis.set_visible(False)
    figure.suptitle("accuracy by mean tokens, 95 % intervals; line: the Pareto set")
    with written_whole(target) as partial:
        save(figure, partial)
    return True


def _panel(axis: Axes, standings: Standings) -> None:
    points = [(n, s.pareto) for n, s in enumerate(standings.models) if s.pareto]
    for number, point in points:
        _mark(axis, point, f"C{number % 10}")
    _frontier(axis, [point for _, point in points])
    axis.set_title(standings.benchmark)
    axis.set_xlabel("mean tokens of a response")
    axis.set_ylabel("accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _mark(axis: Axes, point: ParetoPoint, color: str) -> None:
    x, y = point.tokens.value, 100 * point.accuracy.mean
    low, high = point.tokens.low, point.tokens.high
    across = None if low is None or high is None else ([x - low], [high - x])
    up = ([y - 100 * point.accuracy.low], [100 * point.accuracy.high - y])
    face = color if point.is_kept else "white"
    axis.errorbar(
        x,
        y,
        xerr=across,
        yerr=up,
        fmt="o",
        color=color,
        markerfacecolor=face,
        markersize=8,
        elinewidth=1,
        capsize=2,
        label=f"{_end(point.name)}: {_kept(point)}",
    )


def _frontier(axis: Axes, points: Sequence[ParetoPoint]) -> None:
    """Draw the set as steps: up to the next point its accuracy is the best to be had."""
    kept = sorted((p for p in points if p.is_kept), key=lambda point: point.tokens.value)
    xs = [point.tokens.value for point in kept]
    ys = [100 * point.accuracy.mean for point in kept]
    right = max(point.tokens.value for point in points)
    axis.plot([*xs, right], np.array([*ys, ys[-1]]), drawstyle="steps-post", color="0.4", zorder=0)


def _end(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
