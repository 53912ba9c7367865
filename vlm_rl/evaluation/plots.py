"""Pictures of an evaluation: accuracies with intervals, lengths by verdict, categories."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlm_rl.evaluation.benchmarks.benchmark import Judged
from vlm_rl.evaluation.results import lengths_of

Figures = Mapping[str, Any]

OVERVIEW = "overview.png"
RESPONSES = "responses.png"
CATEGORIES = "categories.png"

_BAR_INCHES = 0.34
_MOST_VALUES = 40


def plot_overview(found: Sequence[Figures], target: Path) -> None:
    """Accuracy by benchmark with its interval; the official rule and guessing beside it."""
    height = 1.5 + 0.5 * len(found)
    figure, axis = plt.subplots(figsize=(9, height), layout="constrained")
    places = range(len(found))
    _points(axis, places, [one["accuracy"] for one in found], label="strict, 95 %")
    official = [one["official"] and one["official"]["accuracy"] for one in found]
    _points(axis, [p + 0.22 for p in places], official, label="official rule, 95 %", color="C1")
    for key, name, marker in (("chance", "guessing", "|"), ("blind", "without images", "x")):
        marks = [(_mark(one[key]), place) for place, one in zip(places, found, strict=True)]
        known = [mark for mark in marks if mark[0] is not None]
        if known:
            axis.plot(*zip(*known, strict=True), marker, color="0.3", markersize=11, label=name)
    axis.set_yticks(places, [f"{one['benchmark']} ({one['num_questions']})" for one in found])
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.set_title("accuracy by benchmark (number of questions)")
    _percent_axis(axis)
    # beside the axes: inside it may hide a benchmark
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    _save(figure, target)


def plot_responses(found: Figures, judged: Sequence[Judged], target: Path) -> bool:
    """Lengths by verdict, accuracy by length, and accuracy by samples, as far as these are known.
    Returns False where none is: then there is no picture."""
    panels = []
    if found["length_tokens"]:
        panels += [lambda axis: _plot_lengths(axis, judged), lambda a: _plot_by_length(a, found)]
    if found["pass_at_k"]:
        panels.append(lambda axis: _plot_at_k(axis, found))
    if not panels:
        return False
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.6 * len(panels), 4.2), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        panel(axis)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(_title(found))
    _save(figure, target)
    return True


def plot_categories(found: Figures, target: Path) -> bool:
    """Accuracy by value of each category, one panel each; False, and no picture, without any."""
    shown = {name: values for name, values in found["categories"].items() if len(values) > 1}
    if not shown:
        return False
    heights = [1 + _BAR_INCHES * min(len(values), _MOST_VALUES) for values in shown.values()]
    figure, axes = plt.subplots(
        len(shown),
        1,
        figsize=(9, sum(heights) + 0.3),
        layout="constrained",
        squeeze=False,
        height_ratios=heights,
        sharex=True,
    )
    for axis, (name, values) in zip(axes[:, 0], shown.items(), strict=True):
        _plot_category(axis, name, values)
        axis.axvline(100 * found["accuracy"]["mean"], color="0.3", linestyle="--", linewidth=1)
    figure.suptitle(
        f"{found['benchmark']}, {found['model']}: accuracy, 95 %; dashed: all questions"
    )
    _save(figure, target)
    return True


def _plot_category(axis: Axes, name: str, values: Mapping[str, Figures]) -> None:
    """The largest values where there are too many to read."""
    largest = sorted(values, key=lambda value: -values[value]["num_questions"])[:_MOST_VALUES]
    kept = {value: values[value] for value in values if value in set(largest)}
    means = [100 * one["mean"] for one in kept.values()]
    places = range(len(kept))
    axis.barh(places, means, color="C0", alpha=0.35, height=0.7)
    _points(axis, places, list(kept.values()), label=None)
    labels = [f"{_short(value)} ({one['num_questions']})" for value, one in kept.items()]
    axis.set_yticks(places, labels)
    axis.set_ylim(len(kept) - 0.4, -0.6)
    left_out = len(values) - len(kept)
    axis.set_title(f"{name}, the {_MOST_VALUES} largest of {len(values)}" if left_out else name)
    _percent_axis(axis)


def _plot_lengths(axis: Axes, judged: Sequence[Judged]) -> None:
    kinds = {
        "correct": lengths_of(judged, lambda one: one.correct),
        "wrong": lengths_of(judged, lambda one: one.verdict.scored and not one.correct),
    }
    longest = max(max(part, default=1) for part in kinds.values())
    for (kind, part), color in zip(kinds.items(), ("C2", "C3"), strict=True):
        if part:
            mean = sum(part) / len(part)
            label = f"{kind}: {len(part)}, mean {mean:.0f} tokens"
            axis.hist(
                part, bins=40, range=(0, longest), histtype="stepfilled", alpha=0.25, color=color
            )
            axis.hist(part, bins=40, range=(0, longest), histtype="step", color=color, label=label)
    axis.set_title("lengths of the responses")
    axis.set_xlabel("length in tokens")


def _plot_by_length(axis: Axes, found: Figures) -> None:
    bins = found["accuracy_by_length"]
    _curve(axis, [part["mean_length"] for part in bins], bins, "tenths by length, 95 %")
    axis.set_title("accuracy by length")
    axis.set_xlabel("mean length in tokens")
    axis.set_ylabel("%")
    axis.set_ylim(0, 100)


def _plot_at_k(axis: Axes, found: Figures) -> None:
    for name, label in {"pass_at_k": "pass@k", "maj_at_k": "maj@k"}.items():
        points = {1: found["accuracy"]} | {int(k): one for k, one in found[name].items()}
        _curve(axis, list(points), list(points.values()), f"{label}, 95 %")
    axis.set_xscale("log", base=2)
    ticks = [1, *(int(k) for k in found["pass_at_k"])]
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.set_title("accuracy by number of samples")
    axis.set_xlabel("k")
    axis.set_ylabel("%")
    axis.set_ylim(0, 100)


def _curve(axis: Axes, places: Sequence[float], estimates: Sequence[Figures], label: str) -> None:
    means, low, high = ([100 * one[key] for one in estimates] for key in ("mean", "low", "high"))
    (line,) = axis.plot(places, means, marker="o", linewidth=1.4, label=label)
    axis.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _points(
    axis: Axes,
    places: Sequence[float],
    estimates: Sequence[Figures | None],
    *,
    label: str | None,
    color: str = "C0",
) -> None:
    known = [(p, one) for p, one in zip(places, estimates, strict=True) if one is not None]
    if known:
        means = [100 * one["mean"] for _, one in known]
        below = [mean - 100 * one["low"] for mean, (_, one) in zip(means, known, strict=True)]
        above = [100 * one["high"] - mean for mean, (_, one) in zip(means, known, strict=True)]
        axis.errorbar(
            means,
            [p for p, _ in known],
            xerr=(below, above),
            fmt="o",
            color=color,
            capsize=3,
            markersize=5,
            label=label,
        )


def _mark(value: Any) -> float | None:
    if value is None:
        return None
    return 100 * float(value if isinstance(value, float) else value["accuracy"]["mean"])


def _percent_axis(axis: Axes) -> None:
    axis.set_xlim(0, 100)
    axis.set_xlabel("%")
    axis.grid(alpha=0.3, axis="x")


def _title(found: Figures) -> str:
    """The end of a long path tells models apart."""
    model = found["model"]
    return f"{found['benchmark']}, {model if len(model) <= 50 else '…' + model[-49:]}"


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _save(figure: Figure, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    plt.close(figure)
