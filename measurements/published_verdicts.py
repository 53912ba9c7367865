"""Compare a benchmark's official rule here with the verdicts that its authors published:

    python -m measurements.published_verdicts mmmu_pro "gpt-4o_standard(10 options)_cot.jsonl"

A file has a row for each response, in lines or as an object of rows by id: the columns of the
benchmark, `response`, and `if_right` (github.com/MMMU-Benchmark/MMMU, mmmu-pro/output) or
`true_false` (github.com/EMMA-Bench/EMMA, results). Rows without a response or verdict are left out
and counted. Images are not read. Differences are counted by the rule that decided here.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm_rl.disk.files import read_text
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import problem_of
from vlm_rl.show.screen import say

VERDICTS = ("if_right", "true_false")
"""What authors call their verdict."""


class Agreement(NamedTuple):
    """Counts of responses, and of the rules behind those that differ."""

    responses: int
    theirs: int
    ours: int
    same: int
    left_out: int
    differing: Counter[str]


def compared(benchmark: str, files: Sequence[Path]) -> Agreement:
    """Judge the responses of all files by the official rule. Raises Damaged for an unreadable
    file, BadRow for a row that is not of the benchmark."""
    rows = [row for file in files for row in _rows(file)]
    pairs = []
    differing: Counter[str] = Counter()
    for row in rows:
        [*said] = (bool(row[name]) for name in VERDICTS if name in row)
        if not said or not isinstance(row.get("response"), str):
            continue
        problem = problem_of(BENCHMARKS[benchmark], {"image": "-", "image_1": "-", **row})
        ruling = BENCHMARKS[benchmark].official(problem, row["response"])
        assert ruling is not None, "the benchmark has a rule of its authors"
        pairs.append((said[0], ruling.correct))
        if said[0] != ruling.correct:
            differing[ruling.rule] += 1
    theirs, ours = (sum(column) for column in zip(*pairs, strict=True)) if pairs else (0, 0)
    same = len(pairs) - differing.total()
    return Agreement(len(pairs), theirs, ours, same, len(rows) - len(pairs), differing)


def _rows(file: Path) -> list[dict[str, Any]]:
    text = read_text(file)
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return [*json.loads(text).values()]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the agreement over all files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args(argv)
    found = compared(options.benchmark, options.files)
    say(
        f"{found.responses} responses ({found.left_out} left out): right by their file "
        f"{found.theirs}, right here {found.ours}, the same verdict {found.same}"
    )
    for rule, count in found.differing.most_common():
        say(f"{count} differ: {rule}")


if __name__ == "__main__":
    main()
