"""Accuracy against the tokens spent on it, of one evaluation or of two with arrows between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from vlm_rl.disk.files import written_whole
from vlm_rl.evaluation.intervals import IntervalEstimate
from vlm_rl.show.figures import Axes, Figure, plt, save

SPENDING = "accuracy_by_tokens.png"
_WIDE = 8  # a longest mean length above this many times the shortest needs a log axis
_MARKERS = "os^DvP"
_COLORS = [f"C{number}" for number in range(10)]
_LABEL_PX = 17


@dataclass(frozen=True)
class Spent:
    """Accuracy, and the mean length of the responses in tokens."""

    accuracy: IntervalEstimate
    mean_length: float


@dataclass(frozen=True)
class Spending:
    """A benchmark's place on the plot; `after` is None for one evaluation."""

    benchmark: str
    before: Spent
    after: Spent | None = None


def plot_spending(places: Sequence[Spending], target: Path) -> bool:
    """Plot accuracy with its interval against mean length, with an arrow to what came after.

    Returns False, and plots nothing, if there is no place.
    """
    if not places:
        return False
    height = max(5.0, 1.4 + 0.24 * len(places))
    figure, axis = plt.subplots(figsize=(9.5, height), layout="constrained")
    for number, place in enumerate(places):
        _plot_place(axis, place, _COLORS[number % 10], _MARKERS[number // 10 % len(_MARKERS)])
    _finish(axis, places)
    handles = [
        _key(f"{n + 1} {place.benchmark}", _COLORS[n % 10], _MARKERS[n // 10 % len(_MARKERS)])
        for n, place in enumerate(places)
    ]
    if any(place.after for place in places):
        handles += [_key("first", "0.3", "o", face="white"), _key("second", "0.3", "o")]
    # beside the axes: inside it may hide a benchmark
    figure.legend(handles=handles, loc="outside right center")
    _number(figure, axis, places)
    with written_whole(target) as partial:
        save(figure, partial)
    return True


def _key(label: str, color: str, marker: str, face: str | None = None) -> Line2D:
    return Line2D(
        [], [], linestyle="", color=color, marker=marker, markerfacecolor=face or color, label=label
    )


def _plot_place(axis: Axes, place: Spending, color: str, marker: str) -> None:
    _point(axis, place.before, color, marker, filled=place.after is None)
    if place.after is None:
        return
    _point(axis, place.after, color, marker, filled=True)
    ends = [(one.mean_length, 100 * one.accuracy.mean) for one in (place.before, place.after)]
    arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "shrinkA": 5, "shrinkB": 5}
    axis.annotate("", xy=ends[1], xytext=ends[0], arrowprops=arrow)


def _point(axis: Axes, spent: Spent, color: str, marker: str, *, filled: bool) -> None:
    accuracy = spent.accuracy
    x, low, high = spent.mean_length, 100 * accuracy.low, 100 * accuracy.high
    axis.plot([x, x], [low, high], color=color, alpha=0.3, linewidth=1)
    face = color if filled else "white"
    axis.plot(x, 100 * accuracy.mean, marker, color=color, markerfacecolor=face, markersize=7)


def _finish(axis: Axes, places: Sequence[Spending]) -> None:
    spent = [one for place in places for one in (place.before, place.after) if one]
    lengths = [max(one.mean_length, 1.0) for one in spent]
    shortest, longest = min(lengths), max(lengths)
    if longest > _WIDE * shortest:
        axis.set_xscale("log")
        axis.set_xlim(shortest / 1.4, longest * 1.4)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
    else:
        space = 0.12 * (longest - shortest) or 0.2 * longest
        axis.set_xlim(max(0, shortest - space), longest + space)
    lowest = min(one.accuracy.low for one in spent)
    highest = max(one.accuracy.high for one in spent)
    axis.set_ylim(max(-2, 100 * lowest - 5), min(102, 100 * highest + 5))
    axis.set_xlabel("mean tokens of a response")
    axis.set_ylabel("accuracy, %, 95 % interval")
    axis.set_title("accuracy by tokens spent")
    axis.grid(alpha=0.3)


def _number(figure: Figure, axis: Axes, places: Sequence[Spending]) -> None:
    """Write each benchmark's number beside its last point, where nothing else is written."""
    figure.draw_without_rendering()
    pixels = axis.transData.transform
    points = [
        tuple(pixels((one.mean_length, 100 * one.accuracy.mean)))
        for place in places
        for one in (place.before, place.after)
        if one
    ]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in points]
    for number, place in enumerate(places, 1):
        last = place.after or place.before
        x, y = pixels((last.mean_length, 100 * last.accuracy.mean))
        box = _free(x, y, taken, axis.bbox)
        taken.append(box)
        centre = (0.5 * (box.x0 + box.x1) - x, 0.5 * (box.y0 + box.y1) - y)
        axis.annotate(
            str(number),
            (last.mean_length, 100 * last.accuracy.mean),
            xytext=centre,
            textcoords="offset pixels",
            ha="center",
            va="center",
            fontsize=9,
            color=_COLORS[(number - 1) % 10],
        )


def _free(x: float, y: float, taken: Sequence[Bbox], inside: Bbox) -> Bbox:
    """Return the box nearest to a point, in pixels, that meets no other one; the last one tried if
    all do."""
    half = _LABEL_PX / 2
    box = Bbox.null()
    for distance in range(13, 90, 8):
        for right, up in ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1)):
            centre = x + right * distance, y + up * distance
            box = Bbox.from_bounds(centre[0] - half, centre[1] - half, _LABEL_PX, _LABEL_PX)
            within = inside.x0 < box.x0 and box.x1 < inside.x1
            if within and not any(box.overlaps(other) for other in taken):
                return box
    return box
