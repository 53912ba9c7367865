r"""MM-Math (Sun et al. 2024, https://arxiv.org/abs/2404.05091), MIT.

Columns as in MM_Math.jsonl of `THU-KEG/MM_Math`, with the pictures of its archive unpacked beside
it. The hub's own view of that set has the pictures without the text. The gold is the last box of
`solution`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.arithmetic import arithmetic
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling, TableSource
from vlm_rl.evaluation.benchmarks.cutting import last_box
from vlm_rl.records import Problem
from vlm_rl.verification.notation import plain_text

_SOURCE = "MM-Math README, with image"


class MMMath(Benchmark):
    name = "mm_math"
    hub_id = "THU-KEG/MM_Math"
    splits = ("train",)
    columns = ("question", "file_name", "answer", "year", "difficult", "knowledge")
    aliases: ClassVar[Mapping[str, str]] = {"solution": "answer"}
    sizes: ClassVar[Mapping[str, int]] = {"train": 5929}
    instruction = "Solve the problem step by step and put the final answer in one \\boxed{}."
    published = (
        PublishedResult("human", 80.4, _SOURCE),
        PublishedResult("DeepSeek-VL-7B-Chat", 5.4, _SOURCE),
        PublishedResult("InternVL-4B-Chat-1.5", 11.6, _SOURCE),
        PublishedResult("Qwen-VL-Max", 11.4, _SOURCE),
        PublishedResult("GPT-4V", 23.1, _SOURCE),
        PublishedResult("GPT-4o", 31.8, _SOURCE),
    )
    notes = (
        "The authors compare the boxes of response and solution; their script is not public. Here "
        "the last boxes must be the same text, or the same value to two decimals: this comparison "
        "is a rule of ours. Their evaluation of the steps needs a judge model and is left out."
    )

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        if source == self.hub_id:
            raise ValueError(
                f"mm_math: the hub's view of {source} has pictures without their questions; "
                "download MM_Math.jsonl, unpack its archive beside it, and give "
                "--data.mm_math MM_Math.jsonl"
            )
        return super().tables(source, split)

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return [row["file_name"]] if row["file_name"] else []

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        gold = last_box(row["answer"])
        if not gold:
            raise BadRow("no answer", "the solution has no box with an answer")
        return Problem(
            uid=str(row["row"]),
            question=row["question"],
            answer=gold,
            images=images,
            meta={
                "categories": {"grade": str(row["year"]), "difficulty": str(row["difficult"])},
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        box = last_box(response)
        if not box:
            return Ruling(False, None, "no box", by_reading=True)
        value, expected = arithmetic(box), arithmetic(problem.answer)
        same = plain_text(box) == plain_text(problem.answer)
        if value is not None and expected is not None:
            same = same or round(value, 2) == round(expected, 2)
        return Ruling(same, box, "box", by_reading=True)
