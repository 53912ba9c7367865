"""M3CoT (Chen et al. 2024, https://arxiv.org/abs/2405.16473), CC BY-SA 4.0.

Columns as in `LightChen2333/M3CoT`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, Ruling
from vlm_rl.evaluation.benchmarks.cutting import last_box, letter_of
from vlm_rl.records import Problem
from vlm_rl.verification.extraction import after_thinking

_LETTERS = "ABCDEFGHI"


class M3CoT(Benchmark):
    name = "m3cot"
    hub_id = "LightChen2333/M3CoT"
    splits = ("test", "validation")
    columns = ("id", "question", "choices", "context", "answer", "image", "domain", "topic")
    sizes: ClassVar[Mapping[str, int]] = {"test": 2318, "validation": 1108}
    instruction = (
        "Think step by step. You must choose one of the options: put its letter in one \\boxed{}."
    )
    notes = (
        "The letter in a box goes before the rest, since our prompt asks for one. Without it "
        "follows the authors' script: the last letter in brackets, else of the options whose text "
        "or letter stands in the response the last one. The authors' table of results is not on "
        "record here."
    )

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        choices = tuple(str(choice) for choice in row["choices"])
        answer = row["answer"].strip()
        if len(answer) != 1 or answer not in _LETTERS[: len(choices)]:
            raise BadRow("wrong value", f"the answer {answer!r} is none of {len(choices)} choices")
        context = (row["context"] or "").strip()
        return Problem(
            uid=row["id"],
            question=f"{context}\n{row['question']}" if context else row["question"],
            answer=answer,
            images=images,
            answer_type="choice",
            choices=choices,
            meta={"categories": {"domain": row["domain"], "topic": row["topic"]}},
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        assert problem.choices, "every row has choices"
        box = last_box(response)
        letter = letter_of(box, _LETTERS[-1]) if box else None
        rule = "letter in the box" if letter else "option"
        letter = letter or _chosen(after_thinking(response), problem.choices)
        return Ruling(letter == problem.answer, letter, rule if letter else "no option named")


def _chosen(response: str, choices: Sequence[str]) -> str | None:
    """Read an option as utils/metric.py of github.com/LightChen233/M3CoT does."""
    text = response.split("[Answer]")[-1]
    if "[Answer]" in response:
        text = text.split("[Rationale]")[0].split("[Context]")[0]
    if bracketed := re.findall(r"\(([A-Za-z])\)", text):
        return str(bracketed[-1]).upper()
    letters = _LETTERS[: len(choices)]
    words = re.sub(r"[\n.,!?]", " ", text).split(" ")
    for found in (
        [x for x, choice in zip(letters, choices, strict=True) if choice.lower() in text.lower()],
        [letter for letter in letters if letter in words],
        [letter for letter in letters if letter.lower() in words],
    ):
        if found:
            return found[-1]
    return None
