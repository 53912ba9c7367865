"""List the responses on which a benchmark's official rule here and stored verdicts differ.

    python -m vlm_rl.evaluation.benchmarks.disagreements mathvision outputs.jsonl \\
        --source test.jsonl --split test --out differ.jsonl

The file of responses is JSONL or JSON, a list of rows or an object of rows by id. A row has `id`
(or `pid`), `response` and a verdict: `correct` (or `true_false`). If it has the `extraction` of a
judge model, the official rule reads that and not the response.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_rl.data.tables import open_table
from vlm_rl.disk.files import write_text
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, Ruling
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.records import Problem
from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import say

_ALIASES = {"pid": "id", "true_false": "correct"}


@dataclass(frozen=True)
class Rescored:
    """A stored response, the verdict stored with it and ours by the official rule."""

    problem: Problem
    stored: Mapping[str, Any]
    ruling: Ruling | None

    @property
    def agrees(self) -> bool:
        return self.ruling is not None and self.ruling.correct == bool(self.stored["correct"])


def rescored(
    benchmark: Benchmark, problems: Sequence[Problem], rows: Iterable[object]
) -> Iterator[Rescored]:
    """Apply the official rule to each row, in order.

    Raises ValueError for a row without a known id, a response or a verdict.
    """
    by_id = {problem.uid: problem for problem in problems}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise ValueError(f"response {number} is not an object with id, response and correct")
        stored: dict[str, Any] = {_ALIASES.get(name) or name: row[name] for name in row}
        missing = [name for name in ("id", "response", "correct") if name not in stored]
        if missing:
            raise ValueError(f"response {number} has no {missing[0]!r}; there are {', '.join(row)}")
        problem = by_id.get(str(stored["id"]))
        if problem is None:
            raise ValueError(f"response {number}: {benchmark.name} has no id {stored['id']!r}")
        if "extraction" in stored:
            ruling = benchmark.official_of_extraction(problem, stored["extraction"])
        else:
            ruling = benchmark.official(problem, stored["response"])
        yield Rescored(problem, stored, ruling)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both accuracies and write the rows that differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("benchmark", choices=sorted(BENCHMARKS))
    parser.add_argument("responses")
    parser.add_argument("--source")
    parser.add_argument("--split")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    benchmark = BENCHMARKS[options.benchmark]
    problems = load(benchmark, options.source, options.split, images=False)
    rows = (row for _, row in open_table(options.responses).rows)
    responses = list(rescored(benchmark, problems, rows))
    differing = [each for each in responses if not each.agrees]
    lines = (json_text(_line(each)) + "\n" for each in differing)
    write_text(options.out, "".join(lines))
    stored = sum(bool(each.stored["correct"]) for each in responses)
    ours = sum(each.ruling is not None and each.ruling.correct for each in responses)
    count = len(responses)
    say(
        f"{count} responses: {100 * ours / count:.2f} % right by the official rule here, "
        f"{100 * stored / count:.2f} % stored; {len(differing)} differ: {options.out}"
    )


def _line(each: Rescored) -> dict[str, Any]:
    return {
        "id": each.problem.uid,
        "gold": each.problem.meta.get("gold", each.problem.answer),
        "answer": each.ruling and each.ruling.answer,
        "rule": each.ruling and each.ruling.rule,
        "correct": each.ruling and each.ruling.correct,
        "stored": each.stored,
    }


if __name__ == "__main__":
    main()
