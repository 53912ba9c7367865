"""Pictures of an audit's figures, each as the bytes of a PNG."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from data_prep.audit_tokens import PROMPT_LIMITS

Figures = Mapping[str, Any]
Panel = Callable[[Axes], None]

_MOST_BARS = 16
_MOST_CHARACTERS = 26
_BINS = 40


def plot_answers(found: Figures) -> bytes:
    """Answer types, the most frequent answers, lengths of answers and questions."""
    answers = found["answers"]
    return _drawn(
        [
            lambda axis: _bars(axis, answers["types"], "answer types"),
            lambda axis: _bars(axis, answers["most_frequent"], "most frequent answers"),
            lambda axis: _lengths(axis, answers["characters"], "answers: characters"),
            lambda axis: _lengths(
                axis, found["question_characters"], "questions: characters", color="C4"
            ),
        ]
    )


def plot_images(found: Figures) -> bytes:
    """Sizes of the different images, and the tokens that they become."""
    sizes, tokens = found["images"]["sizes"], found["tokens"]
    return _drawn([lambda axis: _sizes(axis, sizes, tokens), *_token_panels(tokens)])


def plot_prompts(found: Figures) -> bytes | None:
    """Prompt lengths of a set without images; None where no checkpoint counted them."""
    panels = _token_panels(found["tokens"])
    return _drawn(panels) if panels else None


def _token_panels(tokens: Figures) -> list[Panel]:
    """Of what is known: a set may have no images, or only such as can not be resized."""
    panels: list[Panel] = []
    if tokens["visual_by_problem"] is not None:
        panels.append(
            lambda axis: _tokens(axis, tokens["visual_by_problem"], "visual tokens of a problem")
        )
    if tokens["prompt"] is not None:
        panels.append(
            lambda axis: _tokens(axis, tokens["prompt"], "tokens of a prompt", color="C2")
        )
    return panels


def _drawn(panels: Sequence[Panel]) -> bytes:
    """Two panels a row, an odd one at the end as wide as both."""
    num_rows = (len(panels) + 1) // 2
    figure = plt.figure(figsize=(11, 3.7 * num_rows), layout="constrained")
    grid = figure.add_gridspec(num_rows, 2)
    for index, panel in enumerate(panels):
        row, column = divmod(index, 2)
        alone = index == len(panels) - 1 and column == 0
        axis = figure.add_subplot(grid[row, :] if alone else grid[row, column])
        panel(axis)
        axis.spines[["top", "right"]].set_visible(False)
    target = io.BytesIO()
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target.getvalue()


def _bars(axis: Axes, counts: Mapping[str, int], title: str) -> None:
    shown = list(counts.items())[:_MOST_BARS]
    places = range(len(shown))
    bars = axis.barh(places, [count for _, count in shown], color="C0", alpha=0.75)
    total = sum(counts.values())
    axis.bar_label(bars, [f"{100 * n / total:.1f} %" for _, n in shown], padding=3, fontsize=8)
    axis.set_yticks(places, [_short(name) for name, _ in shown], fontsize=8, parse_math=False)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.margins(x=0.12)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("problems")
    axis.set_title(
        f"{title}, {len(shown)} of {len(counts)}" if counts.keys() - dict(shown) else title
    )


def _lengths(axis: Axes, found: Figures, title: str, *, color: str = "C1") -> None:
    _histogram(axis, found, color)
    axis.set_title(title)
    axis.set_xlabel(f"median {found['p50']}, 95 % up to {found['p95']}, longest {found['max']}")


def _tokens(axis: Axes, found: Figures, title: str, *, color: str = "C0") -> None:
    _histogram(axis, found, color)
    for limit in PROMPT_LIMITS:
        if limit < 1.1 * found["max"]:
            axis.axvline(limit, color="C3", linestyle="--", linewidth=1)
            axis.text(
                limit,
                0.97,
                f" {limit}",
                color="C3",
                transform=axis.get_xaxis_transform(),
                va="top",
            )
    axis.set_title(title)
    axis.set_xlabel(f"median {found['p50']}, 95 % up to {found['p95']}, most {found['max']}")


def _histogram(axis: Axes, found: Figures, color: str) -> None:
    values, weights = list(found["histogram"]), list(found["histogram"].values())
    least, most = min(values), max(values)
    # one bin per whole number where there are few of them
    edges = [value - 0.5 for value in range(least, most + 2)] if most - least < _BINS else _BINS
    axis.hist(values, bins=edges, weights=weights, color=color, alpha=0.75)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("problems")


def _sizes(axis: Axes, sizes: Sequence[Sequence[int]], tokens: Figures) -> None:
    """Width and height, larger dots for more images; curves of equal area at the pixel limits."""
    widths, heights, counts = zip(*sizes, strict=True)
    most = max(counts)
    areas = [12 + 200 * (count - 1) / most for count in counts]
    axis.scatter(widths, heights, s=areas, alpha=0.45, color="C0", linewidth=0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.margins(0.12)
    low, high = axis.get_xlim()
    bounds = axis.get_xlim(), axis.get_ylim()
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
    """Between powers of ten only 2 and 5 are named: more would overlap."""
    return f"{value:.0f}" if f"{value:.0f}"[0] in "25" else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
