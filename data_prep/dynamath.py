"""DynaMath: 501 questions in ten variants each, a benchmark of consistency; 5,010 problems.

    python -m data_prep.dynamath --output data/dynamath
    python -m data_prep.dynamath --output data/dynamath --split sample_variant3

Schema (the card of DynaMath/DynaMath_Sample): `id`, `question`, `image` (a path), `decoded_image`,
`ground_truth`, `answer_type`, `subject`, `knowledge_level`, in splits `sample_variant1` to
`sample_variant10`. The authors' repository has `trial1/dataset.json` to `trial10`, keyed by id,
with `question`, `answer`, `image`, `answer_type`, `subject`, `level`: name the folder of the trials
as the source. Licence: MIT (the repository).

Flaws handled: types, tolerances (0.001 for floats, as the authors compare them) and golds are those
of the benchmark of this name; golds of type `text` may be points, equations or numbers; double
spaces in subjects. `meta.cluster` is the question, over its variants. Repeats are kept.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, Source, revision_of
from vlm_rl.data.tables import Table, open_table
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import images_of, problem_of

_BENCHMARK = BENCHMARKS["dynamath"]
_SPLIT = re.compile(r"all|(?:sample_variant|trial)(10|[1-9])")
_VARIANT = "variant"


class DynaMath(Converter):
    """The form on the hub and the form in the repository."""

    name = _BENCHMARK.name
    hub_id = _BENCHMARK.hub_id
    split = "all"
    layouts = (
        (
            "id",
            "question",
            "image",
            "decoded_image",
            "ground_truth",
            "answer_type",
            "subject",
            "knowledge_level",
        ),
        ("id", "question", "image", "answer", "answer_type", "subject", "level"),
    )
    keeps_repeats = True

    def open(self, source: str, split: str) -> Source:
        if not (named := _SPLIT.fullmatch(split)):
            raise ValueError(
                f"--split is all or sample_variant1 to sample_variant10, got {split!r}"
            )
        path = Path(source).expanduser()
        if path.is_file():
            trial = re.fullmatch(r"(?:trial)?(\d+)", path.parent.name)
            return Source([_numbered(open_table(source), int(trial[1]) if trial else 1)])
        variants = [int(named[1])] if named[1] else range(1, 11)
        if any(path.glob("trial*/dataset.json")):
            files = {n: path / f"trial{n}" / "dataset.json" for n in variants}
            return Source([_numbered(open_table(str(file)), n) for n, file in files.items()])
        tables = [_numbered(open_table(source, f"sample_variant{n}"), n) for n in variants]
        return Source(tables, None if path.exists() else revision_of(source, None))

    def draft(self, row: Mapping[str, Any]) -> Draft:
        problem = problem_of(_BENCHMARK, row)
        categories = problem.meta["categories"]
        return Draft(
            question=problem.question.strip(),
            answer=problem.answer,
            images=images_of(_BENCHMARK, row),
            id=problem.uid,
            answer_type=problem.answer_type,
            tolerance=problem.tolerance,
            task=categories["subject"],
            meta={
                "cluster": problem.meta["cluster"],
                "variant": problem.meta["variant"],
                "categories": {name: categories[name] for name in ("subject", "level")},
            },
        )


def _numbered(table: Table, variant: int) -> Table:
    """Add the number of its variant to every row of a table."""
    return replace(table, rows=list(_with_variant(table.rows, variant)))


def _with_variant(rows: Iterable[tuple[str, object]], variant: int) -> Iterable[tuple[str, object]]:
    for place, row in rows:
        yield place, {**row, _VARIANT: variant} if isinstance(row, Mapping) else row


if __name__ == "__main__":
    main(DynaMath())
