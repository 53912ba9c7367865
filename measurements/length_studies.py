"""Did length go where theory predicted? All studies' finished runs in one report:

    python -m measurements.length_studies runs/torn runs/twins --output runs/prediction

writes `prediction.md` and `prediction.png`; with `--page` it also puts the tables between the two
marks of a page. The prediction of a run is the mean push of its
updates; the outcome is the change of its held-out length, as a logarithm, so that answers of 6 and
of 400 tokens count alike. A correlation has a point per run, and its interval is Fisher's. In the
second one a point is a block of 5 steps; blocks of a run are not independent, so that its interval
draws whole runs anew. Runs that have not finished are left out and counted.

With `--log_ratios` it also compares LREs at equal E q, over runs of `measurements.log_ratios`; with
`--pareto` accuracy against tokens of the variants of a study.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

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
from vlm_rl.run.study_pareto import front
from vlm_rl.run.study_report import COLUMNS, Interval, Outcome, reached, read_outcome
from vlm_rl.show.figures import Axes, plt, save
from vlm_rl.show.markdown import Markdown, table
from vlm_rl.show.screen import say, say_all

RESAMPLES = 2000
PARETO_COLUMNS = ("accuracy before, %", "accuracy after, %", "length before", "length after")
BEGIN, END = "<!-- length_studies: begin -->", "<!-- length_studies: end -->"
"""Marks of a page between which `--page` writes."""


@dataclass(frozen=True)
class Predicted:
    """A finished run: its mean push, what length did, and the same by blocks of steps."""

    study: str
    outcome: Outcome
    first_push: float
    push: float
    tokens: float
    log_change: float
    blocks: tuple[PushPoint, ...]

    @property
    def variant(self) -> str:
        return self.outcome.variant

    @property
    def point(self) -> PushPoint:
        return self.push, self.log_change


def runs_of(study: Path) -> tuple[list[Outcome], int]:
    """Read the finished runs of a study's folder; also count those that are not finished."""
    found, unfinished = [], 0
    for folder in sorted(study.glob("*/*-*")):
        if not folder.is_dir() or folder.parent.name == "configs":
            continue
        variant, _, seed = folder.name.rpartition("-")
        if not run_folder.is_finished(folder):
            unfinished += 1
            continue
        found.append(read_outcome(folder, folder.parent.name, variant, int(seed)))
    return found, unfinished


def predicted(study: str, outcome: Outcome) -> Predicted:
    """Pair the pushes of a run with what its length did."""
    course = [course_of(step) for step in outcome.steps]
    before, after = (outcome.validations[i]["val/length_tokens"] for i in (0, -1))
    mean_length = mean(step[LENGTH] for step in course)
    blocks = [(push, change / mean_length) for push, change in changes(course, "length/push")]
    return Predicted(
        study,
        outcome,
        mean(step["length/push"] for step in course[:BLOCK_STEPS]),
        mean(step["length/push"] for step in course),
        after - before,
        math.log(after / before),
        tuple(blocks),
    )


def block_correlation(runs: Sequence[Predicted], seed: int = 0) -> str:
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


def run_correlation(runs: Sequence[Predicted]) -> str:
    found = Correlation.of([run.point for run in runs])
    return found.text() if found else f"too few or equal, n {len(runs)}"


def by(runs: Sequence[Predicted], key: Callable[[Predicted], str]) -> dict[str, list[Predicted]]:
    groups: dict[str, list[Predicted]] = {}
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


def outcome_table(runs: Sequence[Predicted]) -> Markdown:
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
    runs: Sequence[Predicted], of: Callable[[Sequence[Predicted]], str], title: str
) -> Markdown:
    """Return a row for each study and for all, a column for each objective and for all."""
    studies = by(runs, lambda run: run.study)
    variants = list(by(runs, lambda run: run.variant))
    rows = []
    for name, group in {**studies, "all studies": list(runs)}.items():
        own = by(group, lambda run: run.variant)
        rows.append([name, *(of(own.get(variant, [])) for variant in variants), of(group)])
    return table((title, *variants, "all objectives"), rows)


def equal_q_table(folders: Sequence[Path]) -> Markdown:
    """Return the LRE of each form of band at each E q, mean and interval over runs."""
    cells: dict[tuple[str, float], list[Mapping[str, float]]] = {}
    for folder in folders:
        for one in json.loads((folder / EQUAL_Q).read_text()):
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


def plot(runs: Sequence[Predicted], target: Path) -> None:
    """Draw a panel for each study, a point for each run."""
    studies = by(runs, lambda run: run.study)
    size = (6 * len(studies), 4.2)
    figure, axes = plt.subplots(1, len(studies), figsize=size, layout="constrained", squeeze=False)
    for axis, (study, group) in zip(axes[0], studies.items(), strict=True):
        _panel(axis, by(group, lambda run: run.variant))
        axis.set_title(f"{study}: {run_correlation(group)}")
    save(figure, target)


def _panel(axis: Axes, variants: Mapping[str, Sequence[Predicted]]) -> None:
    for variant, group in variants.items():
        axis.scatter(*zip(*(run.point for run in group), strict=True), s=20, label=variant)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_xlabel("predicted: mean push of a run's updates")
    axis.set_ylabel("log of held-out length after / before")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def pareto_table(outcomes: Sequence[Outcome]) -> Markdown:
    """Return accuracy and tokens before and after training of each variant, shortest first."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.variant, []).append(outcome)
    points = {name: reached(group) for name, group in groups.items()}
    best = front(points)
    rows = []
    for name in sorted(points, key=lambda name: points[name].tokens):
        cells = [
            Interval.of(COLUMNS[column][0](outcome) for outcome in groups[name]).text("{:.1f}")
            for column in PARETO_COLUMNS
        ]
        rows.append((name, len(groups[name]), *cells, "yes" if name in best else ""))
    return table(("method", "seeds", *PARETO_COLUMNS, "on the front"), rows)


def put_into(page: Path, text: Markdown) -> None:
    """Replace what stands between the two marks of `page`. Raises ValueError without them."""
    whole = page.read_text()
    if whole.count(BEGIN) != 1 or whole.count(END) != 1:
        raise ValueError(f"{page} must have {BEGIN} and {END}, once each; add them")
    before, rest = whole.split(BEGIN)
    _, after = rest.split(END)
    write_text(page, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def report(arguments: argparse.Namespace) -> Markdown:
    """Read all runs, draw the plot and return the tables. Raises ValueError without a run."""
    runs: list[Predicted] = []
    parts = []
    for study in arguments.studies:
        found, unfinished = runs_of(study)
        pushed = [o for o in found if any("length/push" in step for step in o.steps)]
        runs += [predicted(f"{study.name}, {outcome.condition}", outcome) for outcome in pushed]
        line = f"{study.name}: {len(found)} runs finished, {unfinished} begun and not finished."
        parts.append(Markdown.escape(line))
    if not runs:
        names = ", ".join(map(str, arguments.studies))
        raise ValueError(f"no finished run in {names}; run python -m vlm_rl.study first")
    parts += [
        outcome_table(runs),
        correlation_table(runs, run_correlation, "r over runs"),
        correlation_table(runs, block_correlation, "r over blocks of 5 steps"),
    ]
    plot(runs, arguments.output / "prediction.png")
    if arguments.log_ratios:
        parts.append(equal_q_table(arguments.log_ratios))
    if arguments.pareto:
        parts.append(pareto_table(runs_of(arguments.pareto)[0]))
    return Markdown("\n\n").join(parts) + Markdown("\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path, help="folders of vlm_rl.study")
    parser.add_argument("--log_ratios", nargs="*", type=Path, default=[], help="runs of it")
    parser.add_argument("--pareto", type=Path, help="folder of a study of methods")
    parser.add_argument("--page", type=Path, help="page that has the two marks")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args(argv)
    try:
        text = report(arguments)
        if arguments.page:
            put_into(arguments.page, text)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    write_text(arguments.output / "prediction.md", text)
    say_all(text)
    say(str(arguments.output / "prediction.md"))


if __name__ == "__main__":
    main()
