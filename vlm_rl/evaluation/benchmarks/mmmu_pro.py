r"""MMMU-Pro (Yue et al. 2024, https://arxiv.org/abs/2409.02813), Apache 2.0.

Columns as in `MMMU/MMMU_Pro`: its configuration `standard (10 options)` has those of MMMU, and the
options stand in another order than the images; `vision` has the question and its options in one
picture. The figure that others call overall is the mean of both accuracies.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling, TableSource
from vlm_rl.evaluation.benchmarks.cutting import last_box, letter_of
from vlm_rl.evaluation.benchmarks.mmmu import MMMU, options_of_row
from vlm_rl.records import Problem
from vlm_rl.verification.extraction import after_thinking

_LETTERS = "ABCDEFGHIJ"
_OVERALL = (
    PublishedResult("Qwen2.5-VL-3B-Instruct", 31.6, "Qwen2.5-VL README", "mean of both"),
    PublishedResult("Qwen2.5-VL-7B-Instruct", 38.3, "Qwen2.5-VL README", "mean of both"),
    PublishedResult("Qwen2.5-VL-72B-Instruct", 51.1, "Qwen2.5-VL README", "mean of both"),
)
_NOTES = (
    "The letter in a box goes before the rest, since our prompt asks for one. Without it follows "
    "the authors' script: the only option whose letter stands anywhere behind `Answer:`, then "
    "bracketed letters, letters before a space or a point, and texts of options. A capital A that "
    "begins a sentence is an answer there. Where the script draws an option at random, none is "
    "chosen. Published overall figures are the mean of this benchmark and its counterpart."
)


class MMMUPro(MMMU):
    name = "mmmu_pro"
    hub_id = "MMMU/MMMU_Pro"
    splits = ("test",)
    columns: ClassVar[tuple[str, ...]] = ("id", "question", "options", "answer", "image_1")
    sizes: ClassVar[Mapping[str, int]] = {"test": 1730}
    instruction = (
        "Answer the multiple-choice question. Think step by step, and put the letter of the option "
        "in one \\boxed{}."
    )
    published: ClassVar[tuple[PublishedResult, ...]] = _OVERALL
    notes = _NOTES

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        if source != self.hub_id:
            return Benchmark.tables(self, source, split)
        return [TableSource(source, split, "standard (10 options)")]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        _check(row)
        return super().problem(row, images)

    def official(self, problem: Problem, response: str) -> Ruling:
        return _ruling(problem, response)


class MMMUProVision(Benchmark):
    name = "mmmu_pro_vision"
    hub_id = "MMMU/MMMU_Pro"
    splits = ("test",)
    columns = ("id", "image", "options", "answer", "subject")
    sizes: ClassVar[Mapping[str, int]] = {"test": 1730}
    instruction = (
        "Write out the multiple-choice question in the image and then solve it step by step. Put "
        "the letter of the option in one \\boxed{}."
    )
    published = _OVERALL
    notes = _NOTES

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        if source != self.hub_id:
            return super().tables(source, split)
        return [TableSource(source, split, "vision")]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        """Return the problem without question and choices: both are in the picture only."""
        options = _check(row)
        return Problem(
            uid=row["id"],
            question="The question and its options are in the image.",
            answer=row["answer"],
            images=images,
            answer_type="choice",
            meta={
                "categories": {"subject": row["subject"]},
                "options": options,
                "num_options": len(options),
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        return _ruling(problem, response)


def _check(row: Mapping[str, Any]) -> tuple[str, ...]:
    options = options_of_row(row)
    if row["answer"] not in _LETTERS[: len(options)] or not row["answer"]:
        raise BadRow(
            "wrong value", f"the answer {row['answer']!r} is none of {len(options)} options"
        )
    return options


def _ruling(problem: Problem, response: str) -> Ruling:
    options = problem.meta["options"]
    box = last_box(response)
    letter = letter_of(box, _LETTERS[len(options) - 1]) if box else None
    rule = "letter in the box" if letter else "option"
    letter = letter or _named(after_thinking(response), options)
    return Ruling(letter == problem.answer, letter, rule if letter else "no option named")


def _named(response: str, options: Sequence[str]) -> str | None:
    """Read an option as mmmu-pro/evaluate.py of github.com/MMMU-Benchmark/MMMU does."""
    letters = _LETTERS[: len(options)]
    _, mark, behind = response.rpartition("Answer:")
    if mark:
        found = [letter for letter in letters if letter in behind]
        if len(found) == 1:
            return found[0]
    for character in ",.!?;:'":
        response = response.strip(character)
    text = f" {response} "
    for there, last in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if there.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(last.format(letter)))
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    places = {
        letter: lower.rfind(option.lower())
        for letter, option in zip(letters, options, strict=True)
        if option.lower() in lower
    }
    return max(places, key=lambda letter: places[letter]) if places else None
