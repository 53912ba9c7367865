"""What an evaluation leaves to read: report.md, report.json, pictures, and its judged samples."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
from vlm_rl.evaluation.results import Evaluation, figures
from vlm_rl.records import Problem, Verdict

REPORT = "report.md"
FIGURES = "report.json"
SAMPLES = "samples.jsonl"
DISAGREEMENTS = "disagreements.jsonl"
_MARK = re.compile(r"<image\s*\d*>")


@dataclass(frozen=True)
class Sample:
    """A line of samples.jsonl: a judged response as far as a comparison needs it."""

    uid: str
    sample: int
    cluster: str
    gold: str
    question_sha256: str
    verdict: Verdict
    length_tokens: int | None

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.CORRECT


def write_report(evaluations: Sequence[Evaluation], folder: Path) -> list[dict[str, Any]]:
    """Write the report of one model over several benchmarks into `folder`; returns the `figures`
    of each. The pictures of a benchmark, and the responses on which its official rule and ours
    disagree, lie in a folder of its name."""
    names = [one.benchmark for one in evaluations]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a report needs one evaluation per benchmark, got {names}")
    found = [figures(one) for one in evaluations]
    pictures = {
        one.benchmark: _write_benchmark(one, its, folder)
        for one, its in zip(evaluations, found, strict=True)
    }
    plot_overview(found, folder / OVERVIEW)
    text = markdown(found, overview=OVERVIEW, pictures=pictures)
    (folder / REPORT).write_text(text, encoding="utf-8")
    plain = json.dumps({"benchmarks": found}, indent=1, ensure_ascii=False)
    (folder / FIGURES).write_text(plain + "\n", encoding="utf-8")
    return found


def _write_benchmark(evaluation: Evaluation, found: Mapping[str, Any], folder: Path) -> list[str]:
    """Names of the pictures drawn, relative to `folder`."""
    own = folder / evaluation.benchmark
    own.mkdir(parents=True, exist_ok=True)
    drawn = {
        RESPONSES: plot_responses(found, evaluation.judged, own / RESPONSES),
        CATEGORIES: plot_categories(found, own / CATEGORIES),
    }
    disagreed = [one for one in evaluation.judged if _disagree(one)]
    write_samples(disagreed, own / DISAGREEMENTS)
    return [f"{evaluation.benchmark}/{name}" for name, exists in drawn.items() if exists]


def _disagree(one: Judged) -> bool:
    return (
        one.official is not None and one.verdict.scored and one.official.correct is not one.correct
    )


def write_samples(judged: Iterable[Judged], path: Path) -> None:
    """One JSON line per judged response."""
    with path.open("w", encoding="utf-8") as file:
        for one in judged:
            file.write(json.dumps(sample_row(one), ensure_ascii=False) + "\n")


def sample_row(judged: Judged) -> dict[str, Any]:
    """What samples.jsonl says of a judged response; `official` is whether the authors' rule calls
    it right, None without a ruling."""
    problem, response, official = judged.problem, judged.response, judged.official
    return {
        "uid": problem.uid,
        "sample": response.sample,
        "cluster": cluster_of(problem),
        "categories": dict(categories_of(problem)),
        "gold": problem.answer,
        "question_sha256": question_sha256(problem),
        "verdict": judged.verdict.value,
        "rule": judged.rule,
        "answer": judged.answer,
        "answer_class": judged.answer_class,
        "official": official and official.correct,
        "official_answer": official and official.answer,
        "official_rule": official and official.rule,
        "length_tokens": response.length_tokens,
        "truncated": response.truncated,
        "refused": response.refused,
        "response": response.text,
    }


def question_sha256(problem: Problem) -> str:
    """16 hex digits, equal for the same words and choices, with or without the pictures."""
    texts = (problem.question, *(problem.choices or ()))
    plain = ["".join(_MARK.sub("", text).split()) for text in texts]
    return hashlib.sha256("\0".join(plain).encode()).hexdigest()[:16]


def read_samples(path: Path) -> list[Sample]:
    """The lines of a samples.jsonl. Raises ValueError naming the line that can not be read or
    repeats a sample of a question."""
    found: dict[tuple[str, int], Sample] = {}
    # not splitlines: a response may hold a separator such as U+2028, which is no end of a line
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            sample = _read_line(line, f"{path}, line {number}")
            key = (sample.uid, sample.sample)
            if key in found:
                raise ValueError(
                    f"{path}, line {number}: sample {sample.sample} of question {sample.uid!r} "
                    "stands there twice; remove one of the lines"
                )
            found[key] = sample
    return list(found.values())


def _read_line(line: str, where: str) -> Sample:
    try:
        row = json.loads(line)
        values = {field.name: row[field.name] for field in fields(Sample)}
        return Sample(**{**values, "verdict": Verdict(values["verdict"])})
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"{where} has no field {error}; needed are those of evaluate") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
