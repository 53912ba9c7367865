"""What each page shows: the name of its template and the values in it."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from vlm_rl.disk.files import Damaged, read_text
from vlm_rl.records import Verdict
from vlm_rl.show.plain import visible_in
from vlm_rl.view import queries
from vlm_rl.view.evaluated import comparison, evaluation_folders, read_samples_page
from vlm_rl.view.folder import RunFolder
from vlm_rl.view.index import RolloutIndex

FIRST_CURVES = (
    "reward/mean",
    "reward/accuracy",
    "completion/length_tokens",
    "policy/entropy",
    "val/accuracy",
    "optim/grad_norm",
)
"""What the page of curves opens with."""

MAX_POINTS = 2000
Query = Mapping[str, str]


@dataclass(frozen=True)
class Viewed:
    """A folder and the index of its rollouts."""

    folder: RunFolder
    index: RolloutIndex

    @property
    def name(self) -> str:
        return self.folder.name

    def state(self) -> dict[str, Any]:
        """Return what changes while a run goes on."""
        rows = self.folder.metrics()
        progress = self.index.progress
        return {
            "step": rows[-1]["step"] if rows else 0,
            "rows": len(rows),
            "files": progress.files,
            "indexed": progress.indexed,
            "damaged": visible_in(progress.damaged[:20]),
        }


@dataclass(frozen=True)
class Page:
    """A filled page. `name` is that of an exported file, `run` what the page is about."""

    template: str
    title: str
    name: str
    run: Viewed | None = None
    context: dict[str, Any] = field(default_factory=dict)
    status: int = 200


def curves(viewed: Mapping[str, Viewed], query: Query) -> Page:
    """Show the curves of all runs, one chart for each metric that is asked for."""
    names = sorted({n for one in viewed.values() for row in one.folder.metrics() for n in row})
    names = [name for name in names if name != "step"]
    asked = [name for name in query.get("metrics", "").split(",") if name in names]
    chosen = asked or [name for name in FIRST_CURVES if name in names] or names[:6]
    sections: dict[str, list[str]] = {}
    for name in names:
        sections.setdefault(name.partition("/")[0], []).append(name)
    context = {"sections": sections, "chosen": chosen, "data": curve_data(viewed, chosen)}
    return Page("curves.html", "Curves", "curves", context=context)


def curve_data(viewed: Mapping[str, Viewed], names: Sequence[str]) -> dict[str, Any]:
    """Return metric -> run -> [steps, values], at most `MAX_POINTS` of them."""
    return {
        name: {one.name: points for one in viewed.values() if (points := _points(one, name))[0]}
        for name in names
    }


def _points(one: Viewed, name: str) -> list[list[float]]:
    rows = one.folder.metrics()
    known = {r["step"]: r[name] for r in rows if name in r and math.isfinite(r[name])}
    steps = sorted(known)
    stride = max(1, -(-len(steps) // MAX_POINTS))
    kept = [*steps[::-1][::stride]][::-1]  # with the newest
    return [kept, [known[step] for step in kept]]


def problems(viewed: Mapping[str, Viewed], query: Query, run: Viewed) -> Page:
    """List problems by accuracy, or by how it has changed."""
    page, order = _whole(query.get("page")) or 0, query.get("order", "accuracy")
    text, source = query.get("q", ""), query.get("source", "")
    rows, total = queries.problems(run.index, text=text, source=source, order=order, page=page)
    context = {
        "rows": rows,
        "total": total,
        "number": page,
        "num_pages": -(-total // queries.PER_PAGE),
        "order": order,
        "q": text,
        "source": source,
        "sources": queries.sources(run.index),
    }
    return Page("problems.html", "Problems", f"{run.name}-problems", run, context)


def problem(viewed: Mapping[str, Viewed], query: Query, run: Viewed) -> Page:
    """Show a problem's group at one step, its completions side by side."""
    found = queries.problem(run.index, query.get("uid", ""))
    if found is None or not found["visits"]:
        raise HTTPException(404, "the rollouts of this run hold no such problem")
    visits = found["visits"]
    asked = _whole(query.get("group"))
    place = next((i for i, one in enumerate(visits) if one["id"] == asked), len(visits) - 1)
    rows = queries.group(run.index, visits[place]["id"])
    context = {
        "problem": found,
        "visit": visits[place],
        "before": visits[place - 1] if place else None,
        "after": visits[place + 1] if place + 1 < len(visits) else None,
        "rows": rows,
        "longest": max((row["length_tokens"] for row in rows), default=1) or 1,
    }
    return Page("problem.html", "Problem", f"{run.name}-problem", run, context)


def completions(viewed: Mapping[str, Viewed], query: Query, run: Viewed) -> Page:
    """List completions by text, source, verdict, length and step."""
    wanted = queries.Filter(
        text=query.get("q", ""),
        source=query.get("source", ""),
        verdict=query.get("verdict", ""),
        shortest=_whole(query.get("shortest")),
        longest=_whole(query.get("longest")),
        step=_whole(query.get("step")),
        before=_whole(query.get("before")),
    )
    context = {
        "wanted": wanted,
        "found": queries.completions(run.index, wanted),
        "sources": queries.sources(run.index),
        "verdicts": [verdict.value for verdict in Verdict],
    }
    return Page("completions.html", "Completions", f"{run.name}-completions", run, context)


def completion(
    viewed: Mapping[str, Viewed], query: Query, run: Viewed, group: int, column: int
) -> Page:
    """Show one completion, its tokens coloured by what the step did to them."""
    row = queries.completion(run.index, group, column)
    if row is None:
        raise HTTPException(404, "the rollouts of this run hold no such completion")
    found = queries.problem(run.index, str(row["uid"]))
    visit = next((g for g in found["visits"] if g["id"] == group), None) if found else None
    context = {
        "row": row,
        "problem": found,
        "tokens": row["tokens"],
        "size": visit["num"] if visit else 1,
    }
    return Page("completion.html", "Completion", f"{run.name}-completion", run, context)


def length(viewed: Mapping[str, Viewed], query: Query, run: Viewed) -> Page:
    """Show a report of length fairness."""
    reports = run.folder.lengths()
    steps = [report["step"] for report in reports]
    asked = _whole(query.get("step"))
    place = steps.index(asked) if asked in steps else len(steps) - 1
    report = reports[place] if reports else None
    context = {"steps": steps, "report": report}
    return Page("length.html", "Length fairness", f"{run.name}-length", run, context)


def evaluations(viewed: Mapping[str, Viewed], query: Query, run: Viewed) -> Page:
    """List reports and judged samples, and show benchmarks as they went in training."""
    rows = run.folder.metrics()
    names = sorted({name for row in rows for name in row if name.startswith("eval/")})
    shown = [name for name in names if name.endswith("/accuracy")]
    context = {
        "reports": run.folder.reports(),
        "samples": run.folder.samples(),
        "data": curve_data(viewed, shown),
        "folders": evaluation_folders(viewed.values()),
    }
    return Page("evaluations.html", "Evaluations", f"{run.name}-evaluations", run, context)


def report(viewed: Mapping[str, Viewed], query: Query, run: Viewed, name: str) -> Page:
    """Show a report in Markdown."""
    path = run.folder.file(name) if name in run.folder.reports() else None
    if path is None:
        raise HTTPException(404, "there is no such report")
    with suppress(Damaged):
        context = {"text": read_text(path), "path": name}
        return Page("report.html", name, f"{run.name}-report", run, context)
    raise HTTPException(404, "the report cannot be read")


def samples(viewed: Mapping[str, Viewed], query: Query, run: Viewed, name: str) -> Page:
    """List the judged responses of a benchmark."""
    path = run.folder.file(name) if name in run.folder.samples() else None
    if path is None:
        raise HTTPException(404, "there is no such file of samples")
    verdict, text = query.get("verdict", ""), query.get("q", "")
    number = _whole(query.get("page")) or 0
    shown = read_samples_page(path, verdict=verdict, text=text, page=number)
    context = {
        "path": name,
        "shown": shown,
        "verdict": verdict,
        "q": text,
        "number": number,
        "verdicts": [one.value for one in Verdict],
    }
    return Page("samples.html", name, f"{run.name}-samples", run, context)


def compared(viewed: Mapping[str, Viewed], query: Query) -> Page:
    """Compare two evaluations of the same questions, their differences with intervals."""
    folders = evaluation_folders(viewed.values())
    first, second = query.get("first", ""), query.get("second", "")
    result = comparison(viewed, folders, first, second) if first and second else None
    context = {"folders": folders, "first": first, "second": second, "result": result}
    return Page("compare.html", "Compare evaluations", "comparison", context=context)


def failure(viewed: Mapping[str, Viewed], status: int, reason: str) -> Page:
    """Return what is shown for a page that is not there."""
    return Page("failure.html", str(status), "failure", context={"reason": reason}, status=status)


def _whole(text: str | None) -> int | None:
    """Return the number in a query that a person may have typed, None for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None
