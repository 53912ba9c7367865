"""Did length go where theory predicted? All studies' finished runs in one report:

    python -m measurements.length_studies runs/torn runs/twins --output runs/prediction

prints the tables and writes `prediction.png`; with `--page` it also puts the tables between the two
marks of a page. What it needs of a study's runs it writes to `STUDY.json`, which can be given in
place of the folder. The prediction of a run is the mean push of its updates; the outcome is the
change of its held-out length, as a logarithm, so that answers of 6 and of 400 tokens count alike.
A correlation has a point per run, and its interval is Fisher's. In the second one a point is a
block of 5 steps; blocks of a run are not independent, so that its interval draws whole runs anew.
Runs that have not finished are left out and counted.

With `--log_ratios` it also compares LREs at equal E q, over runs of `measurements.log_ratios`; with
`--pareto` accuracy against tokens of the variants of a study, which it draws in `pareto.png`.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from measurements.log_ratios import EQUAL_Q
from vlm_rl.disk.files import write_text
from vlm_rl.metrics.push_course import (
    BLOCK_STEPS,
    LENGTH,
    Correlation,
    PushPoint,
    changes,
    course_of,
)
from vlm_rl.run import folder as run_folder
from vlm_rl.run.study_pareto import Reached, front, plot_pareto
from vlm_rl.run.study_report import Interval, Outcome, read_outcome
from vlm_rl.show.figures import Axes, plt, save
from vlm_rl.show.json_text import json_text
from vlm_rl.show.markdown import Markdown, table
from vlm_rl.show.screen import say, say_all

RESAMPLES = 2000
BEGIN, END = "<!-- length_studies: begin -->", "<!-- length_studies: end -->"
"""Marks of a page between which `--page` writes."""


@dataclass(frozen=True)
class Run:
    """A finished run: accuracy in % and tokens held out, before and after; its mean push, over the
    first steps and over all; the push of each block of steps with the change to the next."""

    study: str
    variant: str
    seed: int
    accuracies: tuple[float, float]
    lengths: tuple[float, float]
    first_push: float
    push: float
    blocks: tuple[PushPoint, ...]

    @classmethod
    def of(cls, study: str, outcome: Outcome) -> "Run":
        course = [course_of(step) for step in outcome.steps]
        mean_length = mean(step[LENGTH] for step in course)
        before, after = (outcome.validations[index] for index in (0, -1))
        return cls(
            study,
            outcome.variant,
            outcome.seed,
            (100 * before["val/accuracy"], 100 * after["val/accuracy"]),
            (before["val/length_tokens"], after["val/length_tokens"]),
            mean(step["length/push"] for step in course[:BLOCK_STEPS]),
            mean(step["length/push"] for step in course),
            tuple((push, by / mean_length) for push, by in changes(course, "length/push")),
        )

    @property
    def tokens(self) -> float:
        """The change of length."""
        return self.lengths[1] - self.lengths[0]

    @property
    def point(self) -> PushPoint:
        return self.push, math.log(self.lengths[1] / self.lengths[0])


@dataclass(frozen=True)
class Study:
    """The finished runs of a study, and how many were begun and have not finished."""

    name: str
    unfinished: int
    runs: tuple[Run, ...]

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Read a study's folder, or the file that `write` made of one. Raises ValueError."""
        if path.suffix == ".json":
            values = json.loads(path.read_text())
            try:
                return cls(**values | {"runs": tuple(Run(**run) for run in values["runs"])})
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path} is no study that this command wrote: {error}") from error
        found, unfinished = [], 0
        for folder in sorted(path.glob("*/*-*")):
            if not folder.is_dir() or folder.parent.name == "configs":
                continue
            if not run_folder.is_finished(folder):
                unfinished += 1
                continue
            condition = folder.parent.name
            variant, _, seed = folder.name.rpartition("-")
            outcome = read_outcome(folder, condition, variant, int(seed))
            found.append(Run.of(f"{path.name}, {condition}", outcome))
        return cls(path.name, unfinished, tuple(found))

    def write(self, folder: Path) -> None:
        """Write all that the tables need, a line per run, to six digits."""
        runs = _lines([asdict(run) for run in self.runs])
        start = json_text({"name": self.name, "unfinished": self.unfinished})[:-1]
        write_text(folder / f"{self.name}.json", f'{start}, "runs": {runs}}}\n')


def _lines(values: Sequence[Mapping[str, Any]]) -> str:
    """Return a JSON list with a line for each of `values`."""
    return "[\n" + ",\n".join(json_text(rounded(one)) for one in values) + "\n]"


def together(parts: Iterable[Study]) -> list[Study]:
    """Put the parts of each study together, of which some may have run elsewhere."""
    studies: dict[str, Study] = {}
    for part in parts:
        known = studies.get(part.name, Study(part.name, 0, ()))
        runs = {(run.study, run.variant, run.seed): run for run in (*known.runs, *part.runs)}
        unfinished = known.unfinished + part.unfinished
        studies[part.name] = Study(part.name, unfinished, tuple(runs[key] for key in sorted(runs)))
    return list(studies.values())


def rounded(value: Any) -> Any:
    """Return `value` with every float in it to six digits."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case dict():
            return {key: rounded(one) for key, one in value.items()}
        case list() | tuple():
            return [rounded(one) for one in value]
    return value


def block_correlation(runs: Sequence[Run], seed: int = 0) -> str:
    """Return r over the blocks of all runs; its 95 % interval is over runs drawn with
    replacement."""
    if len(runs) < 4:
        return f"too few, n {len(runs)}"
    draws = np.random.default_rng(seed).integers(len(runs), size=(RESAMPLES, len(runs)))
    parts = [np.array(run.blocks).reshape(-1, 2) for run in runs]

    def of(chosen: Iterable[int]) -> float:
        points = np.concatenate([parts[index] for index in chosen])
        return float(np.corrcoef(points.T)[0, 1])

    low, high = np.quantile([of(draw) for draw in draws], [0.025, 0.975])
    count = sum(map(len, parts))
    return f"r {of(range(len(runs))):+.2f} [{low:+.2f}, {high:+.2f}], n {count}"


def run_correlation(runs: Sequence[Run]) -> str:
    found = Correlation.of([run.point for run in runs])
    return found.text() if found else f"too few or equal, n {len(runs)}"


def by(runs: Sequence[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def verdict(push: Interval, change: Interval) -> str:
    """Say whether prediction and outcome agree, as far as both intervals leave 0 out."""
    if math.isnan(push.half_width):
        return "too few runs"
    clear = [abs(one.mean) > one.half_width for one in (push, change)]
    if not clear[0]:
        return "nothing predicted" + (", it moved" if clear[1] else "")
    if not clear[1]:
        return "did not move"
    return "as predicted" if push.mean * change.mean > 0 else "against"


def outcome_table(runs: Sequence[Run]) -> Markdown:
    """Return a row for each study and objective: prediction, outcome, how many runs agree."""
    rows = []
    for study, of_study in by(runs, lambda run: run.study).items():
        for variant, group in by(of_study, lambda run: run.variant).items():
            first = Interval.of(run.first_push for run in group)
            push = Interval.of(run.push for run in group)
            change = Interval.of(run.tokens for run in group)
            agree = sum(run.push * run.tokens > 0 for run in group)
            cells = (first.text("{:+.3f}"), push.text("{:+.3f}"), change.text("{:+.1f}"))
            rows.append((study, variant, *cells, f"{agree} of {len(group)}", verdict(push, change)))
    pushes = (f"push, first {BLOCK_STEPS} steps", "push, all steps")
    head = ("study", "objective", *pushes, "change, tokens", "runs that agree", "verdict")
    return table(head, rows)


def correlation_table(
    runs: Sequence[Run], of: Callable[[Sequence[Run]], str], title: str
) -> Markdown:
    """Return a row for each study and for all, a column for each objective and for all."""
    studies = by(runs, lambda run: run.study)
    variants = list(by(runs, lambda run: run.variant))
    rows = []
    for name, group in {**studies, "all studies": list(runs)}.items():
        own = by(group, lambda run: run.variant)
        rows.append([name, *(of(own.get(variant, [])) for variant in variants), of(group)])
    return table((title, *variants, "all objectives"), rows)


def equal_q_table(values: Iterable[Mapping[str, Any]]) -> Markdown:
    """Return the LRE of each form of band at each E q, mean and interval over runs."""
    cells: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for one in values:
        cells.setdefault((one["form"], round(one["q"], 2)), []).append(one)
    shares = sorted({q for _, q in cells})
    rows: list[list[str]] = []
    for form in dict.fromkeys(form for form, _ in cells):
        own = [cells.get((form, q), []) for q in shares]
        lres = [Interval.of(one["lre"] for one in c).text("{:.3f}") if c else "-" for c in own]
        rows.append([form, *lres])
    floors = [[one["floor"] for q, c in cells.items() if q[1] == s for one in c] for s in shares]
    rows.append(["chance", *(f"{mean(values):.3f}" for values in floors)])
    return table(("LRE at E q", *(f"{q:.2f}" for q in shares)), rows)


def plot(runs: Sequence[Run], target: Path) -> None:
    """Draw a panel for each study, a point for each run."""
    studies = by(runs, lambda run: run.study)
    size = (6 * len(studies), 4.2)
    figure, axes = plt.subplots(1, len(studies), figsize=size, layout="constrained", squeeze=False)
    for axis, (study, group) in zip(axes[0], studies.items(), strict=True):
        _panel(axis, by(group, lambda run: run.variant))
        axis.set_title(f"{study}: {run_correlation(group)}")
    save(figure, target)


def _panel(axis: Axes, variants: Mapping[str, Sequence[Run]]) -> None:
    for variant, group in variants.items():
        axis.scatter(*zip(*(run.point for run in group), strict=True), s=20, label=variant)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_xlabel("predicted: mean push of a run's updates")
    axis.set_ylabel("log of held-out length after / before")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def reached(runs: Sequence[Run]) -> dict[str, Reached]:
    """Return where the runs of each variant ended."""
    points = {}
    for variant, group in by(runs, lambda run: run.variant).items():
        tokens = Interval.of(run.lengths[1] for run in group)
        accuracy = Interval.of(run.accuracies[1] for run in group)
        points[variant] = Reached(
            tokens.mean, accuracy.mean, tokens.half_width, accuracy.half_width
        )
    return points


def pareto_table(runs: Sequence[Run]) -> Markdown:
    """Return accuracy and tokens before and after training of each variant, shortest first."""
    groups, points = by(runs, lambda run: run.variant), reached(runs)
    best = front(points)
    rows = []
    for name in sorted(points, key=lambda name: points[name].tokens):
        columns = zip(*([*run.accuracies, *run.lengths] for run in groups[name]), strict=True)
        cells = [Interval.of(column).text("{:.1f}") for column in columns]
        rows.append((name, len(groups[name]), *cells, "yes" if name in best else ""))
    columns = ("accuracy before, %", "accuracy after, %", "length before", "length after")
    return table(("method", "seeds", *columns, "on the front"), rows)


def put_into(page: Path, text: Markdown) -> None:
    """Replace what stands between the two marks of `page`. Raises ValueError without them."""
    whole = page.read_text()
    if whole.count(BEGIN) != 1 or whole.count(END) != 1:
        raise ValueError(f"{page} must have {BEGIN} and {END}, once each; add them")
    before, rest = whole.split(BEGIN)
    _, after = rest.split(END)
    write_text(page, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def report(arguments: argparse.Namespace) -> Markdown:
    """Read all runs, draw the plots and return the tables. Raises ValueError without a run."""
    studies = together(map(Study.read, arguments.studies))
    runs = [run for study in studies for run in study.runs]
    if not runs:
        names = ", ".join(map(str, arguments.studies))
        raise ValueError(f"no finished run in {names}; run python -m vlm_rl.study first")
    parts = [
        *(Markdown.escape(f"{s.name}: {_finished(s)}.") for s in studies),
        outcome_table(runs),
        correlation_table(runs, run_correlation, "r over runs"),
        correlation_table(runs, block_correlation, "r over blocks of 5 steps"),
    ]
    plot(runs, arguments.output / "prediction.png")
    if arguments.log_ratios:
        files = [path / EQUAL_Q if path.is_dir() else path for path in arguments.log_ratios]
        values = [one for file in files for one in json.loads(file.read_text())]
        parts.append(equal_q_table(values))
        write_text(arguments.output / EQUAL_Q, f"{_lines(values)}\n")
    if arguments.pareto:
        methods = Study.read(arguments.pareto)
        studies.append(methods)
        parts += [Markdown.escape(f"{methods.name}: {_finished(methods)}.")]
        parts += [pareto_table(methods.runs)]
        plot_pareto({methods.name: reached(methods.runs)}, arguments.output / "pareto.png")
    for study in studies:
        study.write(arguments.output)
    return Markdown("\n\n").join(parts) + Markdown("\n")


def _finished(study: Study) -> str:
    return f"{len(study.runs)} runs finished, {study.unfinished} begun and not finished"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "studies", nargs="+", type=Path, help="folders of vlm_rl.study, or STUDY.json"
    )
    parser.add_argument(
        "--log_ratios", nargs="*", type=Path, default=[], help="its runs, or equal_q.json"
    )
    parser.add_argument("--pareto", type=Path, help="the same of a study of methods")
    parser.add_argument("--page", type=Path, help="page that has the two marks")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args(argv)
    try:
        text = report(arguments)
        if arguments.page:
            put_into(arguments.page, text)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    say_all(text)
    say(f"the plots, and what they show of each run, are in {arguments.output}")


if __name__ == "__main__":
    main()
