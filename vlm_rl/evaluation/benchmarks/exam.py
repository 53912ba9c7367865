"""What the text-only mathematics benchmarks share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.benchmark import Benchmark
from vlm_rl.records import AnswerType, Problem
from vlm_rl.verification.reading import plain_number


class Exam(Benchmark):
    """Questions without images. There is no official rule on a response: the exam has one right
    answer, which our verifier compares."""

    instruction = "Reason step by step and put the final answer in one \\boxed{}."
    aliases: ClassVar[Mapping[str, str]] = {"question": "problem", "unique_id": "id"}
    answer_type: ClassVar[AnswerType | None] = "number"
    categories: ClassVar[tuple[str, ...]] = ()
    """Columns by which accuracies are given."""

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return ()

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        return Problem(
            uid=str(row["row"] if row.get("id") is None else row["id"]),
            question=row["problem"],
            answer=whole_number(str(row["answer"]).strip()),
            answer_type=self.answer_type,
            meta={"categories": {name: str(row[name]) for name in self.categories}},
        )


def whole_number(answer: str) -> str:
    """Turn `27.0`, as some copies write an integer, into 27; keep all else as it is."""
    value = plain_number(answer) if answer.endswith(".0") else None
    return answer if value is None else str(value)
