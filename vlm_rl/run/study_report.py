"""What a study reports: tables with intervals over seeds, and five plots."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from vlm_rl.disk.files import Damaged, read_json, write_text, written_whole
from vlm_rl.metrics.push_course import BLOCK_STEPS, PushPoint
from vlm_rl.run.length_report import REPORTS
from vlm_rl.run.metrics_csv import METRICS, read_metrics
from vlm_rl.run.study_pareto import PARETO_PLOT, Reached, plot_pareto
from vlm_rl.run.study_pushes import PUSH_PLOT, plot_pushes, push_table
from vlm_rl.show.figures import Axes, plt, save
from vlm_rl.show.markdown import Markdown, table
from vlm_rl.show.screen import Screen, Table, say

Row = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """A finished run: its validations and steps in order, and its last length report."""

    condition: str
    variant: str
    seed: int
    validations: list[Row]
    steps: list[Row]
    lengths: Mapping[str, Any]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half width of its 95 % interval (Student's t; NaN for one seed)."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Interval":
        seeds = list(values)
        if len(seeds) < 2:
            return cls(seeds[0], math.nan)
        quantile = float(student.ppf(0.975, len(seeds) - 1))
        return cls(mean(seeds), quantile * stdev(seeds) / math.sqrt(len(seeds)))

    def plain(self) -> dict[str, float | None]:
        return {name: None if math.isnan(v) else v for name, v in vars(self).items()}

    def text(self, form: str) -> str:
        if math.isnan(self.mean):
            return "-"
        if math.isnan(self.half_width):
            return form.format(self.mean)
        return f"{form.format(self.mean)} ± {form.replace('+', '').format(self.half_width)}"


def read_outcome(folder: Path, condition: str, variant: str, seed: int) -> Outcome:
    """Read the files of a finished run. Raises Damaged."""
    rows = read_metrics(folder / METRICS)
    reports = read_json(folder / REPORTS, list)
    if not reports or not isinstance(reports[-1], dict):
        raise Damaged(folder / REPORTS, "its last entry is no report")
    return Outcome(
        condition,
        variant,
        seed,
        validations=[row for row in rows if "val/accuracy" in row],
        steps=[row for row in rows if "completion/length_tokens" in row],
        lengths=reports[-1],
    )


Measure = Callable[[Outcome], float]


def _first(name: str) -> Measure:
    return lambda outcome: outcome.validations[0].get(name, math.nan)


def _last(name: str) -> Measure:
    return lambda outcome: outcome.validations[-1].get(name, math.nan)


def _change(name: str) -> Measure:
    return lambda outcome: outcome.validations[-1][name] - outcome.validations[0][name]


def _of_lengths(name: str) -> Measure:
    """Read a number of the length report; NaN if the run has accepted nothing."""
    return lambda outcome: math.nan if (v := outcome.lengths[name]) is None else float(v)


def _push(name: str, first: int | None = None) -> Measure:
    """Read the mean push over all steps, or the `first`; NaN if nothing was pushed in any."""

    def measure(outcome: Outcome) -> float:
        steps = outcome.steps[:first]
        pushes = [step[name] for step in steps if name in step]
        return mean(pushes) if pushes else math.nan

    return measure


def acceptance(outcome: Outcome, name: str = "inside") -> float:
    """Return q, the mean of q(L) over the sequences of all bins; NaN if no bin has one."""
    count = "num_sequences" if name == "inside" else "num_learning"
    bins = [part for part in outcome.lengths["bins"] if part[name] is not None]
    if not bins:
        return math.nan
    return float(sum(b[name] * b[count] for b in bins) / sum(b[count] for b in bins))


def weight_ratio(outcome: Outcome, name: str = "weight_first") -> float:
    """Return the gradient weight of a token in the longest bin over that in the shortest.

    NaN if the shortest has none.
    """
    weights = [part[name] for part in outcome.lengths["bins"] if part[name] is not None]
    return weights[-1] / weights[0] if weights and weights[0] else math.nan


COLUMNS: Mapping[str, tuple[Measure, str]] = {
    "accuracy before, %": (lambda o: 100 * _first("val/accuracy")(o), "{:.1f}"),
    "accuracy after, %": (lambda o: 100 * _last("val/accuracy")(o), "{:.1f}"),
    "length before": (_first("val/length_tokens"), "{:.1f}"),
    "length after": (_last("val/length_tokens"), "{:.1f}"),
    "change of length": (_change("val/length_tokens"), "{:+.1f}"),
    "push of its updates": (_push("length/push"), "{:+.3f}"),
    "push of a sum, first steps": (_push("length/push_sum", BLOCK_STEPS), "{:+.3f}"),
    "push of a mean, first steps": (_push("length/push_mean", BLOCK_STEPS), "{:+.3f}"),
    "tokens per correct": (_last("val/length_per_correct_tokens"), "{:.1f}"),
    "q inside": (acceptance, "{:.2f}"),
    "LRE inside": (_of_lengths("lre_inside"), "{:.3f}"),
    "LRE accepted": (_of_lengths("lre_accepted"), "{:.3f}"),
    "LRE floor": (_of_lengths("lre_inside_floor"), "{:.3f}"),
    "weight, long / short": (weight_ratio, "{:.2f}"),
    "the same, clipped at 0": (lambda o: weight_ratio(o, "weight"), "{:.2f}"),
}


PAIRED: Mapping[str, tuple[Measure, str]] = {
    "accuracy after, points, minus {first}'s": (COLUMNS["accuracy after, %"][0], "{:+.1f}"),
    "length after minus {first}'s": (COLUMNS["length after"][0], "{:+.1f}"),
}
"""Differences to the first variant at the same seed. Both have the same prompts and the same first
rollouts, so the interval of the difference is narrower than those of the two."""


def write_report(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Print the table; write `table.md`, `results.json`, `curves.png`, `acceptance.png`,
    `weights.png`, `pushes.png` and `pareto.png`."""
    cells = _cells(outcomes)
    results = [
        {"condition": condition, "variant": variant, "seeds": [o.seed for o in group]}
        | {name: interval.plain() for name, (interval, _) in _intervals(cells, key).items()}
        for key, group in cells.items()
        for condition, variant in [key]
    ]
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_text(folder / "table.md", _markdown(cells))
    _plot(cells, folder / "curves.png", _plot_curves, rows=2)
    _plot(cells, folder / "acceptance.png", _plot_acceptance, rows=2)
    _plot(cells, folder / "weights.png", _plot_weights, rows=2)
    plot_pushes(_push_points(cells), folder / PUSH_PLOT)
    plot_pareto(_reached(cells), folder / PARETO_PLOT)
    _print(cells)
    plots = ("curves.png", "acceptance.png", "weights.png", PUSH_PLOT, PARETO_PLOT)
    for name in ("table.md", "results.json", *plots):
        say(str(folder / name))


Cells = Mapping[tuple[str, str], list[Outcome]]


def _cells(outcomes: Sequence[Outcome]) -> Cells:
    cells: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((outcome.condition, outcome.variant), []).append(outcome)
    return dict(sorted(cells.items(), key=lambda item: _order(outcomes, *item[0])))


def _order(outcomes: Sequence[Outcome], condition: str, variant: str) -> tuple[int, int]:
    """Return the place of a cell in the configuration, whose order the runs have."""
    conditions = [outcome.condition for outcome in outcomes]
    variants = [outcome.variant for outcome in outcomes]
    return conditions.index(condition), variants.index(variant)


def _intervals(cells: Cells, key: tuple[str, str]) -> dict[str, tuple[Interval, str]]:
    """Return every measure of one cell: its interval and how to print it."""
    group = cells[key]
    intervals = {name: (Interval.of(map(of, group)), form) for name, (of, form) in COLUMNS.items()}
    first = next(variant for condition, variant in cells if condition == key[0])
    others = {outcome.seed: outcome for outcome in cells[key[0], first]}
    pairs = [(outcome, others[outcome.seed]) for outcome in group if outcome.seed in others]
    for name, (of, form) in PAIRED.items():
        if pairs and key[1] != first:
            difference = Interval.of(of(outcome) - of(other) for outcome, other in pairs)
            intervals[name.format(first=first)] = difference, form
    return intervals


def _texts(cells: Cells, key: tuple[str, str]) -> dict[str, str]:
    return {name: i.text(form) for name, (i, form) in _intervals(cells, key).items()}


def _markdown(cells: Cells) -> Markdown:
    """Write a table per condition, with a row per measure and a column per variant, and one of
    pushes against changes of length."""
    tables = [
        table((condition, *texts), _rows(texts))
        for condition, texts in _by_condition(cells).items()
    ]
    tables.append(push_table(_push_points(cells)))
    return Markdown("\n\n").join(tables) + Markdown("\n")


def _push_points(cells: Cells) -> dict[str, dict[str, list[PushPoint]]]:
    """Pair each run's mean push with its change of length; a run that pushed nothing has none."""
    points: dict[str, dict[str, list[PushPoint]]] = {}
    change, push = _change("val/length_tokens"), _push("length/push")
    for (condition, variant), group in cells.items():
        own = [(push(outcome), change(outcome)) for outcome in group]
        known = [point for point in own if not math.isnan(point[0])]
        points.setdefault(condition, {})[variant] = known
    return points


def _reached(cells: Cells) -> dict[str, dict[str, Reached]]:
    """Return where the runs of each variant ended."""
    points: dict[str, dict[str, Reached]] = {}
    for (condition, variant), group in cells.items():
        tokens, accuracy = (
            Interval.of(COLUMNS[name][0](outcome) for outcome in group)
            for name in ("length after", "accuracy after, %")
        )
        own = Reached(tokens.mean, accuracy.mean, tokens.half_width, accuracy.half_width)
        points.setdefault(condition, {})[variant] = own
    return points


def _print(cells: Cells) -> None:
    screen = Screen(width=max(110, Screen().width))
    for condition, texts in _by_condition(cells).items():
        shown = Table(title=f"{condition}: mean over seeds ± 95 % interval")
        for heading in ("", *texts):
            shown.add_column(heading, justify="right" if heading else "left")
        for row in _rows(texts):
            shown.add_row(*row)
        screen.print(shown)


def _by_condition(cells: Cells) -> dict[str, dict[str, dict[str, str]]]:
    """Map condition -> variant -> measure -> text."""
    texts: dict[str, dict[str, dict[str, str]]] = {}
    for condition, variant in cells:
        texts.setdefault(condition, {})[variant] = _texts(cells, (condition, variant))
    return texts


def _rows(texts: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    names = dict.fromkeys(name for column in texts.values() for name in column)
    return [[name, *(column.get(name, "-") for column in texts.values())] for name in names]


Draw = Callable[[Sequence[Axes], Mapping[str, list[Outcome]]], None]


def _plot(cells: Cells, target: Path, draw: Draw, rows: int) -> None:
    """Draw a column of axes per condition."""
    conditions = list(dict.fromkeys(condition for condition, _ in cells))
    size = (6 * len(conditions), 3.6 * rows)
    figure, axes = plt.subplots(
        rows, len(conditions), figsize=size, layout="constrained", squeeze=False
    )
    for column, condition in enumerate(conditions):
        own = {variant: group for (c, variant), group in cells.items() if c == condition}
        draw(list(axes[:, column]), own)
        axes[0, column].set_title(f"{condition}: {axes[0, column].get_title()}")
    with written_whole(target) as partial:
        save(figure, partial)


def _plot_curves(axes: Sequence[Axes], variants: Mapping[str, list[Outcome]]) -> None:
    titles = {
        "completion/length_tokens": "length in tokens, training rollouts",
        "val/accuracy": "accuracy, held out",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for variant, group in variants.items():
            series = [_smooth(_series(outcome, name)) for outcome in group]
            _band(axis, series, variant)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        axis.legend()


def _series(outcome: Outcome, name: str) -> list[tuple[float, float]]:
    rows = outcome.validations if name.startswith("val") else outcome.steps
    return [(row["step"], row[name]) for row in rows]


def _smooth(series: list[tuple[float, float]], width: int = 5) -> list[tuple[float, float]]:
    """Average over the last `width` steps; a short series stays as it is."""
    if len(series) <= 2 * width:
        return series
    return [
        (step, mean(value for _, value in series[max(0, i + 1 - width) : i + 1]))
        for i, (step, _) in enumerate(series)
    ]


def _band(axis: Axes, series: Sequence[list[tuple[float, float]]], label: str) -> None:
    """Draw the mean over seeds with its 95 % interval."""
    steps = [step for step, _ in series[0]]
    values = [[value for _, value in run] for run in series]
    intervals = [Interval.of(column) for column in zip(*values, strict=True)]
    means = [interval.mean for interval in intervals]
    (line,) = axis.plot(steps, means, label=label, linewidth=1.5)
    low = [i.mean - i.half_width for i in intervals]
    high = [i.mean + i.half_width for i in intervals]
    axis.fill_between(steps, low, high, alpha=0.15, color=line.get_color())


def _plot_acceptance(axes: Sequence[Axes], variants: Mapping[str, list[Outcome]]) -> None:
    titles = {"inside": "q(L), ratio inside the band", "accepted": "q(L), gradient kept"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        _by_length(axis, variants, name)
        axis.set_title(title)
        axis.set_ylim(0, 1.02)


def _plot_weights(axes: Sequence[Axes], variants: Mapping[str, list[Outcome]]) -> None:
    titles = {
        "weight_first": "gradient weight of a token at ratio 1",
        "weight": "the same in later updates, clipped tokens at 0",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        _by_length(axis, variants, name)
        axis.set_title(title)
        axis.set_yscale("log")


def _by_length(axis: Axes, variants: Mapping[str, list[Outcome]], name: str) -> None:
    """Draw a point per bin and seed, and a line through the bins of all seeds.

    A variant of which no run has learned anything in its reported steps is left out.
    """
    for variant, group in variants.items():
        points = sorted(
            (part["mean_length"], part[name])
            for outcome in group
            for part in outcome.lengths["bins"]
            if part[name] is not None
        )
        if not points:
            continue
        # as many neighbours as seeds: about one bin of each
        joined = [points[i : i + len(group)] for i in range(0, len(points), len(group))]
        centres = [tuple(map(mean, zip(*part, strict=True))) for part in joined]
        (line,) = axis.plot(*zip(*centres, strict=True), label=variant, linewidth=1.5)
        lengths, values = zip(*points, strict=True)
        axis.scatter(lengths, values, s=6, alpha=0.4, color=line.get_color())
    axis.set_xlabel("length in tokens")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend()
