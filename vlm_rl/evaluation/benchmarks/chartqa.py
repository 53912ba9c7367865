"""ChartQA (Masry et al. 2022, https://arxiv.org/abs/2203.10244), GPL 3.0.

Columns as in `lmms-lab/ChartQA`. The authors' files name them `imgname`, `query` and `label`: a
folder with their `test_human.json` and `test_augmented.json` is read with the pictures in `png/`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.benchmark import (
    Benchmark,
    Judged,
    PublishedResult,
    Ruling,
    TableSource,
)
from vlm_rl.evaluation.benchmarks.cutting import cut
from vlm_rl.evaluation.benchmarks.samples import ScoredProblem, over_samples
from vlm_rl.records import AnswerType, Problem
from vlm_rl.verification.notation import open_text
from vlm_rl.verification.reading import plain_number
from vlm_rl.verification.relaxed import is_relaxed_match

_KINDS = ("human", "augmented")


class ChartQA(Benchmark):
    name = "chartqa"
    hub_id = "lmms-lab/ChartQA"
    splits = ("test",)
    columns = ("type", "question", "answer", "image")
    aliases: ClassVar[Mapping[str, str]] = {
        "imgname": "image",
        "query": "question",
        "label": "answer",
    }
    sizes: ClassVar[Mapping[str, int]] = {"test": 2500}
    instruction = "Put the answer, a word, phrase or number, in one \\boxed{}."
    published = (
        PublishedResult("InternVL2.5-1B", 75.9, "InternVL2.5-2B model card", "average"),
        PublishedResult("InternVL2.5-2B", 79.2, "InternVL2.5-2B model card", "average"),
        PublishedResult("Qwen2-VL-2B", 73.5, "InternVL2.5-2B model card", "average"),
        PublishedResult("InternVL2.5-78B", 88.3, "InternVL2.5-78B model card", "average"),
    )
    notes = (
        "The official rule is the paper's relaxed accuracy: a number within 5 % of the gold, else "
        "the same text. It is applied to the box, else to what the response announces, else to all "
        "of it. `12%` is 0.12, so it does not match 12. Published averages are the mean of the "
        "human and the augmented half, which are equally long. The strict rule has the same 5 % "
        "for golds that are numbers."
    )

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        files = [Path(source, f"{split}_{kind}.json") for kind in _KINDS]
        if not all(file.is_file() for file in files):
            return super().tables(source, split)
        return [
            TableSource(str(file), split, columns={"type": kind, "folder": "png"})
            for file, kind in zip(files, _KINDS, strict=True)
        ]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return [f"{row['folder']}/{row['image']}" if "folder" in row else row["image"]]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        kind = next((kind for kind in _KINDS if str(row["type"]).startswith(kind)), None)
        if kind is None:
            raise BadRow("wrong value", f"the type {row['type']!r} is neither human nor augmented")
        answer = str(row["answer"]).strip()
        kind_of_answer = _type(answer)
        return Problem(
            uid=f"{kind}/{row['row']}",
            question=row["question"],
            answer=answer,
            images=images,
            answer_type=kind_of_answer,
            tolerance=None if kind_of_answer == "text" else {"rel": 0.05},
            meta={"categories": {"half": kind}},
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        given = cut(response, letters="")
        answer = open_text(given.answer).replace(r"\%", "%") if given else None
        right = answer is not None and is_relaxed_match(answer, problem.answer)
        return Ruling(right, answer, "relaxed match")

    def measures(self, judged: Sequence[Judged]) -> Mapping[str, float]:
        return over_samples(judged, halves)


def halves(outcomes: Sequence[ScoredProblem]) -> dict[str, float]:
    """Return the accuracy of each half, and their average if both are there."""
    by_half: dict[str, list[bool]] = {}
    for problem, correct in outcomes:
        by_half.setdefault(problem.meta["categories"]["half"], []).append(correct)
    values = {half: sum(rows) / len(rows) for half, rows in sorted(by_half.items())}
    return values | ({"average": sum(values.values()) / 2} if len(values) == 2 else {})


def _type(answer: str) -> AnswerType:
    if plain_number(answer) is not None:
        return "number"
    return "percent" if plain_number(answer.removesuffix("%")) is not None else "text"
