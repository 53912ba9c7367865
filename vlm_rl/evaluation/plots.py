"""Plots of an evaluation: accuracies with intervals, lengths by verdict, categories."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_rl.disk.files import written_whole
from vlm_rl.evaluation.benchmarks.benchmark import Judged
from vlm_rl.evaluation.intervals import IntervalEstimate
from vlm_rl.evaluation.results import AccuracyAtLength, BenchmarkResult
from vlm_rl.evaluation.summary import is_correct, is_wrong, lengths_of
from vlm_rl.show.figures import Axes, plt, save

OVERVIEW = "overview.png"
RESPONSES = "responses.png"
CATEGORIES = "categories.png"

_BAR_INCHES = 0.34
_MOST_VALUES = 40


def plot_overview(results: Sequence[BenchmarkResult], target: Path) -> None:
    """Plot accuracy by benchmark with its interval; the official rule and guessing beside it."""
    height = 1.5 + 0.5 * len(results)
    figure, axis = plt.subplots(figsize=(9, height), layout="constrained")
    places = range(len(results))
    _points(axis, places, [one.accuracy for one in results], label="strict, 95 %")
    official = [one.official_accuracy for one in results]
    _points(axis, [p + 0.22 for p in places], official, label="official rule, 95 %", color="C1")
    read = [one.reading_accuracy for one in results]
    _points(axis, [p + 0.22 for p in places], read, label="by reading, 95 %", color="C4")
    _marks(axis, [one.chance for one in results], label="guessing", marker="|")
    blind = [one.blind_accuracy.mean if one.blind_accuracy else None for one in results]
    _marks(axis, blind, label="without images", marker="x")
    axis.set_yticks(places, [f"{one.benchmark} ({one.num_questions})" for one in results])
    axis.set_ylim(len(results) - 0.4, -0.6)
    axis.set_title("accuracy by benchmark (number of questions)")
    _percent_axis(axis)
    # beside the axes: inside it may hide a benchmark
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
    with written_whole(target) as partial:
        save(figure, partial)


def plot_responses(result: BenchmarkResult, judged: Sequence[Judged], target: Path) -> bool:
    """Plot lengths by verdict, accuracy by length, and accuracy by samples, as far as known.

    Returns False, and plots nothing, if none of them is.
    """
    panels = []
    if result.length_tokens:
        panels += [lambda axis: _plot_lengths(axis, judged), lambda a: _plot_by_length(a, result)]
    if result.pass_at_k:
        panels.append(lambda axis: _plot_at_k(axis, result))
    if not panels:
        return False
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.6 * len(panels), 4.2), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        panel(axis)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(_title(result))
    with written_whole(target) as partial:
        save(figure, partial)
    return True


def plot_categories(result: BenchmarkResult, target: Path) -> bool:
    """Plot accuracy by value, a panel per category with several values.

    Returns False, and plots nothing, if there is no such category.
    """
    shown = {name: values for name, values in result.categories.items() if len(values) > 1}
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
    assert result.accuracy is not None, "categories are of scored questions"
    for axis, (name, values) in zip(axes[:, 0], shown.items(), strict=True):
        _plot_category(axis, name, values)
        axis.axvline(100 * result.accuracy.mean, color="0.3", linestyle="--", linewidth=1)
    figure.suptitle(f"{result.benchmark}, {result.model}: accuracy, 95 %; dashed: all questions")
    with written_whole(target) as partial:
        save(figure, partial)
    return True


def _plot_category(axis: Axes, name: str, values: Mapping[str, IntervalEstimate]) -> None:
    """Plot the largest values only, if there are too many to read."""
    largest = sorted(values, key=lambda value: -values[value].num_questions)[:_MOST_VALUES]
    kept = {value: values[value] for value in values if value in set(largest)}
    means = [100 * one.mean for one in kept.values()]
    places = range(len(kept))
    axis.barh(places, means, color="C0", alpha=0.35, height=0.7)
    _points(axis, places, list(kept.values()), label=None)
    labels = [f"{_short(value)} ({one.num_questions})" for value, one in kept.items()]
    axis.set_yticks(places, labels)
    axis.set_ylim(len(kept) - 0.4, -0.6)
    left_out = len(values) - len(kept)
    axis.set_title(f"{name}, the {_MOST_VALUES} largest of {len(values)}" if left_out else name)
    _percent_axis(axis)


def _plot_lengths(axis: Axes, judged: Sequence[Judged]) -> None:
    kinds = {"correct": lengths_of(judged, is_correct), "wrong": lengths_of(judged, is_wrong)}
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


def _plot_by_length(axis: Axes, result: BenchmarkResult) -> None:
    bins = result.accuracy_by_length
    _curve(axis, [part.mean_length for part in bins], bins, "tenths by length, 95 %")
    axis.set_title("accuracy by length")
    axis.set_xlabel("mean length in tokens")
    axis.set_ylabel("%")
    axis.set_ylim(0, 100)


def _plot_at_k(axis: Axes, result: BenchmarkResult) -> None:
    assert result.accuracy is not None, "pass@k is over scored questions"
    for label, estimates in (("pass@k", result.pass_at_k), ("maj@k", result.maj_at_k)):
        points = {1: result.accuracy, **estimates}
        _curve(axis, list(points), list(points.values()), f"{label}, 95 %")
    axis.set_xscale("log", base=2)
    ticks = [1, *result.pass_at_k]
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.set_title("accuracy by number of samples")
    axis.set_xlabel("k")
    axis.set_ylabel("%")
    axis.set_ylim(0, 100)


def _curve(
    axis: Axes,
    places: Sequence[float],
    estimates: Sequence[IntervalEstimate | AccuracyAtLength],
    label: str,
) -> None:
    means, low, high = (
        [100 * getattr(one, end) for one in estimates] for end in ("mean", "low", "high")
    )
    (line,) = axis.plot(places, means, marker="o", linewidth=1.4, label=label)
    axis.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _points(
    axis: Axes,
    places: Sequence[float],
    estimates: Sequence[IntervalEstimate | None],
    *,
    label: str | None,
    color: str = "C0",
) -> None:
    known = [(p, one) for p, one in zip(places, estimates, strict=True) if one is not None]
    if known:
        means = [100 * one.mean for _, one in known]
        below = [mean - 100 * one.low for mean, (_, one) in zip(means, known, strict=True)]
        above = [100 * one.high - mean for mean, (_, one) in zip(means, known, strict=True)]
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


def _marks(axis: Axes, fractions: Sequence[float | None], *, label: str, marker: str) -> None:
    known = [(100 * f, place) for place, f in enumerate(fractions) if f is not None]
    if known:
        axis.plot(*zip(*known, strict=True), marker, color="0.3", markersize=11, label=label)


def _percent_axis(axis: Axes) -> None:
    axis.set_xlim(0, 100)
    axis.set_xlabel("%")
    axis.grid(alpha=0.3, axis="x")


def _title(result: BenchmarkResult) -> str:
    """Name benchmark and model; of a long path the end, which tells models apart."""
    model = result.model
    return f"{result.benchmark}, {model if len(model) <= 50 else '…' + model[-49:]}"


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
