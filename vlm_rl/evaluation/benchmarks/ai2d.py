"""AI2D (Kembhavi et al. 2016, https://arxiv.org/abs/1603.07396): questions on school diagrams.

Columns as in `lmms-lab/ai2d`, the usual test set, whose diagrams hide the label that is asked for
behind a letter; `answer` is the place of the right option, counted from 0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling
from vlm_rl.evaluation.benchmarks.choosing import chosen
from vlm_rl.records import Problem

_LETTERS = "ABCDEFGHI"


class AI2D(Benchmark):
    name = "ai2d"
    hub_id = "lmms-lab/ai2d"
    splits = ("test",)
    columns = ("question", "options", "answer", "image")
    sizes: ClassVar[Mapping[str, int]] = {"test": 3088}
    instruction = "Put the letter of the right option in one \\boxed{}."
    published = (
        PublishedResult("InternVL2.5-1B", 69.3, "InternVL2.5-2B model card"),
        PublishedResult("InternVL2.5-2B", 74.9, "InternVL2.5-2B model card"),
        PublishedResult("Qwen2-VL-2B", 74.7, "InternVL2.5-2B model card"),
        PublishedResult("InternVL2.5-78B", 89.1, "InternVL2.5-78B model card"),
    )
    notes = (
        "The paper counts which option is chosen, and has no rule on text: a rule of ours reads "
        "the option, by letter or words, and guesses nothing. Published figures are those with "
        "masked labels, as here."
    )

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        options = tuple(str(option) for option in row["options"])
        place = int(row["answer"])
        if not 0 <= place < len(options):
            raise BadRow("wrong value", f"the answer {place} is none of {len(options)} options")
        return Problem(
            uid=str(row["row"]),
            question=row["question"],
            answer=_LETTERS[place],
            images=images,
            answer_type="choice",
            choices=options,
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        options = dict(zip(_LETTERS, problem.choices or (), strict=False))
        letters = chosen(response, options)
        return Ruling(letters == problem.answer, letters, "option", by_reading=True)
