"""Published rows through their scripts; skipped if the data is absent.

Broken on purpose, one at a time, each seen red: a converter that mends golds its own way; types of
its own.
"""

from pathlib import Path

import pytest

from data_prep.converter import Converter
from data_prep.dynamath import DynaMath
from data_prep.mathvision import MathVision
from tests.support.data_prep_helpers import converted
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import load


@pytest.mark.parametrize(
    ("converter", "source", "split"),
    [
        (MathVision(), "mathvision/testmini.jsonl", "testmini"),
        (MathVision(), "mathvision/test.jsonl", "test"),
        (DynaMath(), "dynamath", "all"),
    ],
)
def test_converter_and_benchmark_agree_on_every_real_row(
    converter: Converter, source: str, split: str, shared: Path
) -> None:
    benchmark, path = BENCHMARKS[converter.name], str(shared / "data" / source)
    problems = load(benchmark, path, split if split != "all" else None, images=False)
    tables = converter.open(path, split).tables
    drafts = [converter.draft(row) for table in tables for _, row in table.rows]  # type: ignore[arg-type]
    for draft, problem in zip(drafts, problems, strict=True):
        assert (draft.id, draft.answer, draft.answer_type, draft.choices, draft.unit) == (
            problem.uid,
            problem.answer,
            problem.answer_type,
            problem.choices,
            problem.unit,
        )
        assert draft.tolerance == problem.tolerance


def test_real_mathvision_testmini_converts_whole(shared: Path, tmp_path: Path) -> None:
    entry, problems = converted(MathVision(), shared / "data" / "mathvision", tmp_path, "testmini")
    assert (entry["read"], entry["written"], entry["text_only"]) == (304, 304, 0)
    assert all(len(problem.images) == 1 for problem in problems)


def test_real_dynamath_converts_whole(shared: Path, tmp_path: Path) -> None:
    entry, problems = converted(DynaMath(), shared / "data" / "dynamath", tmp_path, "all")
    assert (entry["read"], entry["written"]) == (630, 630)
    assert len({problem.meta["cluster"] for problem in problems}) == 63
