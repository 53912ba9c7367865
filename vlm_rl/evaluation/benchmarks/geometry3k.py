r"""Geometry3K (Lu et al. 2021, https://arxiv.org/abs/2105.04165), as it is trained on.

Columns as in `hiyouga/geometry3k`: one picture, free answers in LaTeX with spaces between signs.
The rows have no ids; the place in the table, from 0, is theirs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, Published
from vlm_rl.records import Problem


class Geometry3K(Benchmark):
    name = "geometry3k"
    hub_id = "hiyouga/geometry3k"
    splits = ("test", "validation")
    columns = ("images", "problem", "answer")
    sizes: ClassVar[Mapping[str, int]] = {"test": 601, "validation": 300}
    instruction = "Reason first, then put the final answer in one \\boxed{}."
    published = (
        Published("Qwen2.5-VL-3B-Instruct", 24.0, "EasyR1 baselines, before training"),
        Published("Qwen2.5-VL-3B-Instruct, GRPO", 38.0, "EasyR1 baselines, after training"),
        Published("Qwen2.5-VL-7B-Instruct", 37.0, "EasyR1 baselines, before training"),
        Published("Qwen2.5-VL-7B-Instruct, GRPO", 48.0, "EasyR1 baselines, after training"),
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
