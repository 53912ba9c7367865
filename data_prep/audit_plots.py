"""Plots of an audit's statistics, each as the bytes of a PNG."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from data_prep.audit_tokens import PROMPT_LIMITS

Statistics = Mapping[str, Any]
Panel = Callable[[Axes], None]

_MOST_BARS = 16
_MOST_CHARACTERS = 26
_BINS = 40


def plot_answers(statistics: Statistics) -> bytes:
    """Plot answer types, the most frequent answers, lengths of answers and questions."""
    answers, questions = statistics["answers"], statistics["question_characters"]
    return _png(
        [
            partial(_bars, answers["types"], "answer types"),
            partial(_bars, answers["most_frequent"], "most frequent answers"),
            partial(_histogram, answers["characters"], "answers: characters", "C1", ()),
            partial(_histogram, questions, "questions: characters", "C4", ()),
        ]
    )


def plot_tokens(statistics: Statistics) -> bytes | None:
    """Plot sizes of the different images, and the tokens that they and prompts become.

    Shows what is known: a set may have no images, or only such as cannot be resized. None of
    nothing.
    """
    sizes, tokens = statistics["images"]["sizes"], statistics["tokens"]
    known = {
        ("visual tokens of a problem", "C0"): tokens["visual_by_problem"],
        ("tokens of a prompt", "C2"): tokens["prompt"],
    }
    panels = [partial(_sizes, sizes, tokens)] if sizes else []
    panels += [
        partial(_histogram, counts, title, color, PROMPT_LIMITS)
        for (title, color), counts in known.items()
        if counts is not None
    ]
    return _png(panels) if panels else None


def _png(panels: Sequence[Panel]) -> bytes:
    """Draw two panels a row, an odd one at the end as wide as both."""
    num_rows = (len(panels) + 1) // 2
    canvas = plt.figure(figsize=(11, 3.7 * num_rows), layout="constrained")
    grid = canvas.add_gridspec(num_rows, 2)
    for index, panel in enumerate(panels):
        row, column = divmod(index, 2)
        alone = index == len(panels) - 1 and column == 0
        axis = canvas.add_subplot(grid[row, :] if alone else grid[row, column])
        panel(axis)
        axis.spines[["top", "right"]].set_visible(False)
    target = io.BytesIO()
    canvas.savefig(target, dpi=110)
    plt.close(canvas)
    return target.getvalue()


def _bars(counts: Mapping[str, int], title: str, axis: Axes) -> None:
    shown = dict(list(counts.items())[:_MOST_BARS])
    bars = axis.barh(range(len(shown)), list(shown.values()), color="C0", alpha=0.75)
    total = sum(counts.values())
    shares = [f"{100 * count / total:.1f} %" for count in shown.values()]
    axis.bar_label(bars, shares, padding=3, fontsize=8)
    axis.set_yticks(range(len(shown)), list(map(_short, shown)), fontsize=8, parse_math=False)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.margins(x=0.12)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("problems")
    left_out = len(counts) > len(shown)
    axis.set_title(f"{title}, {len(shown)} of {len(counts)}" if left_out else title)


def _histogram(
    counts: Statistics, title: str, color: str, limits: Sequence[int], axis: Axes
) -> None:
    """Draw a `distribution`, with a line at each of `limits` that it comes near to."""
    least, most = counts["min"], counts["max"]
    # one bin per whole number if there are few of them
    edges = [value - 0.5 for value in range(least, most + 2)] if most - least < _BINS else _BINS
    weights = list(counts["histogram"].values())
    axis.hist(list(counts["histogram"]), bins=edges, weights=weights, color=color, alpha=0.75)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("problems")
    for limit in limits:
        if limit < 1.1 * most:
            axis.axvline(limit, color="C3", linestyle="--", linewidth=1)
            across = axis.get_xaxis_transform()
            axis.text(limit, 0.97, f" {limit}", color="C3", transform=across, va="top")
    axis.set_title(title)
    word = "most" if limits else "longest"
    axis.set_xlabel(f"median {counts['p50']}, 95 % up to {counts['p95']}, {word} {most}")


def _sizes(sizes: Sequence[Sequence[int]], tokens: Statistics, axis: Axes) -> None:
    """Draw width and height, larger dots for more images, and curves of equal area at the pixel
    limits."""
    widths, heights, counts = zip(*sizes, strict=True)
    areas = [12 + 200 * (count - 1) / max(counts) for count in counts]
    axis.scatter(widths, heights, s=areas, alpha=0.45, color="C0", linewidth=0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.margins(0.12)
    bounds = axis.get_xlim(), axis.get_ylim()
    low, high = bounds[0]
    for name in ("min_pixels", "max_pixels"):
        area = tokens[name]
        axis.plot([low, high], [area / low, area / high], color="C3", linestyle="--", linewidth=1)
    axis.set_xlim(bounds[0])
    axis.set_ylim(bounds[1])
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(ScalarFormatter())
        scale.set_minor_formatter(FuncFormatter(_first_digits))
        scale.set_tick_params(which="minor", labelsize=7)
    axis.set_xlabel("width in pixels")
    axis.set_ylabel("height in pixels")
    axis.set_title("sizes of different images; dashed: pixel limits")


def _first_digits(value: float, _: int) -> str:
    """Name only 2 and 5 between powers of ten: more would overlap."""
    return f"{value:.0f}" if f"{value:.0f}"[0] in "25" else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
