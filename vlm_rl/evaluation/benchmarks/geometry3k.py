r"""Geometry3K (Lu et al. 2021, https://arxiv.org/abs/2105.04165), as it is trained on.

Columns as in `hiyouga/geometry3k`: one image, free answers in LaTeX with spaces between signs. Rows
have no ids; their place in the table, from 0, serves as one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult
from vlm_rl.records import Problem


class Geometry3K(Benchmark):
    name = "geometry3k"
    hub_id = "hiyouga/geometry3k"
    splits = ("test", "validation")
    columns = ("images", "problem", "answer")
    sizes: ClassVar[Mapping[str, int]] = {"test": 601, "validation": 300}
    instruction = "Reason first, then put the final answer in one \\boxed{}."
    published = (
        PublishedResult("Qwen2.5-VL-3B-Instruct", 24.0, "EasyR1 baselines, before training"),
        PublishedResult("Qwen2.5-VL-3B-Instruct, GRPO", 38.0, "EasyR1 baselines, after training"),
        PublishedResult("Qwen2.5-VL-7B-Instruct", 37.0, "EasyR1 baselines, before training"),
        PublishedResult("Qwen2.5-VL-7B-Instruct, GRPO", 48.0, "EasyR1 baselines, after training"),
    )
    notes = (
        "There is no official rule for free answers: the original task is multiple choice. "
        "Published figures come from the graders of training frameworks."
    )

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return list(row["images"])

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        return Problem(
            uid=str(row["row"]),
            question=row["problem"],
            answer=str(row["answer"]).strip(),
            images=images,
        )
