"""MMStar (Chen et al. 2024, https://arxiv.org/abs/2403.20330).

Columns as in `Lin-Chen/MMStar`; the question ends with its options: `Options: A: 3, B: 4`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling
from vlm_rl.evaluation.benchmarks.choosing import options_in
from vlm_rl.evaluation.benchmarks.cutting import labels_in, last_box, letter_of
from vlm_rl.records import Problem
from vlm_rl.verification.extraction import after_thinking

_BEFORE = ("", "(", "option ", "the answer is ")


class MMStar(Benchmark):
    name = "mmstar"
    hub_id = "Lin-Chen/MMStar"
    splits = ("val",)
    columns = ("index", "question", "image", "answer", "category", "l2_category")
    sizes: ClassVar[Mapping[str, int]] = {"val": 1500}
    instruction = "Put the letter of the option in one \\boxed{}."
    published = (
        PublishedResult("LLaVA-NeXT-34B", 52.1, "MMStar eval/README.md"),
        PublishedResult("Qwen2.5-VL-3B-Instruct", 55.8, "Qwen2.5-VL README"),
        PublishedResult("Qwen2.5-VL-7B-Instruct", 63.9, "Qwen2.5-VL README"),
        PublishedResult("Qwen2.5-VL-72B-Instruct", 70.8, "Qwen2.5-VL README"),
    )
    notes = (
        "The letter in a box goes before the rest, since our prompt asks for one. Without a box "
        "follows the authors' script, which takes the first character, also after `(`, `option ` "
        "or `the answer is `, in any case: `An orange` is A there."
    )

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        answer = row["answer"].strip()
        if answer not in ("A", "B", "C", "D"):
            raise BadRow("wrong value", f"the answer {answer!r} is not a letter from A to D")
        before, _, behind = row["question"].rpartition("Options:")
        options = options_in(behind) if before.strip() else {}
        return Problem(
            uid=str(row["index"]),
            question=before.strip() if options else row["question"],
            answer=answer,
            images=images,
            answer_type="choice",
            choices=tuple(options.values()) or None,
            meta={
                "categories": {"category": row["category"], "axis": row["l2_category"]},
                "num_options": len(options) or labels_in(row["question"]),
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        """Without a box follow eval/vlmeval/evaluate/mmstar.py of the authors."""
        box = last_box(response)
        if box is not None:
            letter = letter_of(box, "D")
            return Ruling(letter == problem.answer, letter, "letter in the box")
        text = after_thinking(response).lower().strip()
        gold = problem.answer.lower()
        right = any(text.startswith(before + gold) for before in _BEFORE)
        return Ruling(right, text[:1].upper() or None, "first character")
