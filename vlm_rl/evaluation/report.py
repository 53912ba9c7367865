"""The files of an evaluation: report.md, report.json, plots, and its judged samples."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vlm_rl.disk.files import write_text
from vlm_rl.evaluation.benchmarks.benchmark import Judged, categories_of, cluster_of
from vlm_rl.evaluation.markdown import markdown
from vlm_rl.evaluation.plots import (
    CATEGORIES,
    OVERVIEW,
    RESPONSES,
    plot_categories,
    plot_overview,
    plot_responses,
)
from vlm_rl.evaluation.provenance import question_sha256
from vlm_rl.evaluation.results import BenchmarkResult
from vlm_rl.evaluation.spending import SPENDING, Spending, Spent, plot_spending
from vlm_rl.evaluation.summary import Evaluation, summarise
from vlm_rl.records import Verdict
from vlm_rl.show.json_text import json_text

REPORT = "report.md"
RESULTS = "report.json"
SAMPLES = "samples.jsonl"
DISAGREEMENTS = "disagreements.jsonl"


@dataclass(frozen=True)
class Sample:
    """A line of samples.jsonl: what a comparison needs of a judged response.

    Files of earlier versions lack what has a default here.
    """

    uid: str
    sample: int
    cluster: str
    gold: str
    question_sha256: str
    verdict: Verdict
    length_tokens: int | None
    truncated: bool | None = None
    categories: Mapping[str, str] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.CORRECT


_NAMES = tuple(one.name for one in fields(Sample))
_REQUIRED = _NAMES[: _NAMES.index("truncated")]


def write_report(
    evaluations: Sequence[Evaluation], folder: Path, *, with_lengths: bool = False
) -> list[BenchmarkResult]:
    """Write the report of one model over several benchmarks into `folder`, and return the results.

    The plots of a benchmark, and the responses on which its official rule and ours disagree, lie
    in a folder of its name. `with_lengths` names the page of lengths beside it. Raises ValueError
    without evaluations, or with two of one benchmark.
    """
    names = [evaluation.benchmark for evaluation in evaluations]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a report needs one evaluation per benchmark, got {names}")
    results = [summarise(evaluation) for evaluation in evaluations]
    plots = {
        result.benchmark: _write_benchmark(evaluation, result, folder)
        for evaluation, result in zip(evaluations, results, strict=True)
    }
    plot_overview(results, folder / OVERVIEW)
    spent = plot_spending(_places(results), folder / SPENDING)
    overviews = [OVERVIEW, *([SPENDING] if spent else [])]
    text = markdown(results, overviews=overviews, plots=plots, with_lengths=with_lengths)
    write_text(folder / REPORT, text)
    write_text(folder / RESULTS, results_json(results))
    return results


def results_json(results: Sequence[BenchmarkResult]) -> str:
    """Return report.json: every field of each result under its own name."""
    plain = {"benchmarks": [asdict(result) for result in results]}
    return json_text(plain, indent=1) + "\n"


def _places(results: Sequence[BenchmarkResult]) -> list[Spending]:
    """Return where each benchmark with known lengths stands."""
    return [
        Spending(result.benchmark, Spent(result.accuracy, result.mean_length))
        for result in results
        if result.accuracy is not None and result.mean_length is not None
    ]


def _write_benchmark(evaluation: Evaluation, result: BenchmarkResult, folder: Path) -> list[str]:
    """Write plots and disagreements; return the paths of the plots, relative to `folder`."""
    own = folder / evaluation.benchmark
    drawn = {
        RESPONSES: plot_responses(result, evaluation.judged, own / RESPONSES),
        CATEGORIES: plot_categories(result, own / CATEGORIES),
    }
    disagreed = [one for one in evaluation.judged if _disagree(one)]
    write_samples(disagreed, own / DISAGREEMENTS)
    return [f"{evaluation.benchmark}/{name}" for name, exists in drawn.items() if exists]


def _disagree(one: Judged) -> bool:
    return (
        one.official is not None and one.verdict.scored and one.official.correct is not one.correct
    )


def write_samples(judged: Iterable[Judged], path: Path) -> None:
    """Write one JSON line per judged response."""
    write_text(path, "".join(json_text(sample_row(one)) + "\n" for one in judged))


def sample_row(judged: Judged) -> dict[str, Any]:
    """Return the line of samples.jsonl; `official` is None if the authors' rule has no ruling."""
    problem, response, official = judged.problem, judged.response, judged.official
    return {
        "uid": problem.uid,
        "sample": response.sample,
        "cluster": cluster_of(problem),
        "categories": dict(categories_of(problem)),
        "question": problem.question,
        "choices": problem.choices,
        "images": [str(one) if isinstance(one, Path) else None for one in problem.images],
        "gold": problem.answer,
        "question_sha256": question_sha256(problem),
        "verdict": judged.verdict.value,
        "rule": judged.rule,
        "answer": judged.answer,
        "answer_class": judged.answer_class,
        "official": official and official.correct,
        "official_answer": official and official.answer,
        "official_rule": official and official.rule,
        "by_reading": official and official.by_reading,
        "length_tokens": response.length_tokens,
        "thinking_tokens": response.thinking_tokens,
        "truncated": response.truncated,
        "refused": response.refused,
        "response": response.text,
    }


def read_samples(path: Path) -> list[Sample]:
    """Read a samples.jsonl.

    Raises ValueError naming the line that cannot be read or that repeats a sample of a question.
    """
    samples: dict[tuple[str, int], Sample] = {}
    # not splitlines: a response may hold a separator such as U+2028, which does not end a line
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            sample = _read_line(line, f"{path}, line {number}")
            key = (sample.uid, sample.sample)
            if key in samples:
                raise ValueError(
                    f"{path}, line {number}: sample {sample.sample} of question {sample.uid!r} "
                    "is there twice; remove one of the lines"
                )
            samples[key] = sample
    return list(samples.values())


def read_rows(path: Path, uids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the whole lines of some questions of a samples.jsonl that `read_samples` can read."""
    rows: dict[str, list[dict[str, Any]]] = {uid: [] for uid in uids}
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            row = json.loads(line)
            if row["uid"] in rows:
                rows[row["uid"]].append(row)
    return rows


def _read_line(line: str, where: str) -> Sample:
    try:
        row = json.loads(line)
        values = {name: row[name] for name in _NAMES if name in _REQUIRED or name in row}
        return Sample(**{**values, "verdict": Verdict(values["verdict"])})
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    except KeyError as error:
        raise ValueError(
            f"{where} has no field {error}; give a file that evaluate wrote"
        ) from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
