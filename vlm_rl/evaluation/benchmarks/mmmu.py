r"""MMMU (Yue et al. 2024, https://arxiv.org/abs/2311.16502), Apache 2.0.

Columns as in `MMMU/MMMU`, where each of the 30 subjects is a configuration; a merged copy such as
`lmms-lab/MMMU` is one table. `options` is a list written as a string. `<image 1>` in question and
options marks the place of an image.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.arithmetic import arithmetic
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling, TableSource
from vlm_rl.evaluation.benchmarks.cutting import (
    CutAnswer,
    cut,
    has_words,
    letter_of,
    named_option,
    short,
)
from vlm_rl.evaluation.benchmarks.placing import in_order, marked, names_image
from vlm_rl.records import Problem

SUBJECTS = (
    "Accounting",
    "Agriculture",
    "Architecture_and_Engineering",
    "Art",
    "Art_Theory",
    "Basic_Medical_Science",
    "Biology",
    "Chemistry",
    "Clinical_Medicine",
    "Computer_Science",
    "Design",
    "Diagnostics_and_Laboratory_Medicine",
    "Economics",
    "Electronics",
    "Energy_and_Power",
    "Finance",
    "Geography",
    "History",
    "Literature",
    "Manage",
    "Marketing",
    "Materials",
    "Math",
    "Mechanical_Engineering",
    "Music",
    "Pharmacy",
    "Physics",
    "Psychology",
    "Public_Health",
    "Sociology",
)
_IMAGE = "<image {}>"


class MMMU(Benchmark):
    name = "mmmu"
    hub_id = "MMMU/MMMU"
    splits: tuple[str, ...] = ("validation", "dev")
    columns: ClassVar[tuple[str, ...]] = (
        "id",
        "question",
        "options",
        "answer",
        "question_type",
        "image_1",
    )
    sizes: ClassVar[Mapping[str, int]] = {"validation": 900, "dev": 150}
    instruction = (
        "Put the final answer in one \\boxed{}: the letter of the option where there are options, "
        "else a word, phrase or number."
    )
    published: ClassVar[tuple[PublishedResult, ...]] = (
        PublishedResult("Qwen2.5-VL-3B-Instruct", 53.1, "Qwen2.5-VL README"),
        PublishedResult("Qwen2.5-VL-7B-Instruct", 58.6, "Qwen2.5-VL README"),
        PublishedResult("Qwen2.5-VL-72B-Instruct", 70.2, "Qwen2.5-VL README"),
        PublishedResult("MM-Eureka-7B", 54.4, "OpenMMReasoner, lmms-eval"),
        PublishedResult("OpenVLThinker-7B", 55.1, "OpenMMReasoner, lmms-eval"),
        PublishedResult("OpenMMReasoner-7B", 57.8, "OpenMMReasoner, lmms-eval"),
    )
    notes = (
        "Where no option can be found the authors draw one at random; here that is wrong. Of an "
        "open question only the cut answer is compared, and of several golds our verifier knows "
        "the first. Pictures that stand in the options are shown in the question."
    )

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        if source != self.hub_id:
            return super().tables(source, split)
        return [TableSource(source, split, subject) for subject in SUBJECTS]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        """Return images in the order in which the question names them, the unnamed ones first."""
        there = [number for number in range(1, 8) if row.get(f"image_{number}")]
        return [row[f"image_{number}"] for number in in_order(_whole_text(row), there, _IMAGE)]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        options = options_of_row(row)
        text = _whole_text(row)
        there = [number for number in range(1, 8) if row.get(f"image_{number}")]
        golds = _golds(str(row["answer"]))
        shown = options and not any(names_image(option, _IMAGE) for option in options)
        return Problem(
            uid=row["id"],
            question=marked(text, there, _IMAGE) if images else text,
            answer=golds[0],
            images=images,
            answer_type="choice" if options else None,
            choices=options if shown else None,
            meta={
                "categories": {
                    "subject": re.sub(r"^[a-z]+_|_\d+$", "", row["id"]),
                    "kind": "choice" if options else "open",
                    "difficulty": row.get("topic_difficulty") or "not given",
                },
                "golds": golds,
                "options": options,
                "num_options": len(options),
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        answer = cut(response)
        if not problem.meta["options"]:
            return _open_ruling(short(answer, max_words=12), problem.meta["golds"])
        letter = letter_of(answer.answer) if answer and answer.how != "text" else None
        letter = letter or named_option(response, problem.meta["options"])
        return Ruling(letter == problem.answer, letter, "option" if letter else "no option named")


def options_of_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options, which the hub stores as a list written in a string."""
    options = row["options"]
    if isinstance(options, str):
        options = ast.literal_eval(options)
    if not isinstance(options, list):
        raise BadRow("wrong type", f"options {options!r:.50} are not a list")
    if len(options) == 1 and isinstance(options[0], list):
        options = options[0]  # validation_Accounting_29 of MMMU-Pro has a list in the list
    return tuple(str(option) for option in options)


def _golds(answer: str) -> list[str]:
    """Return the golds; an open question may have several: `['24/7', '3.429']`."""
    if re.fullmatch(r"\[\s*['\"].*\]", answer):
        return [str(gold) for gold in ast.literal_eval(answer)]
    return [answer]


def _whole_text(row: Mapping[str, Any]) -> str:
    """Return the question, with its options if these hold images."""
    options = options_of_row(row)
    if not any(names_image(option, _IMAGE) for option in options):
        return str(row["question"])
    lines = (f"({chr(ord('A') + index)}) {option}" for index, option in enumerate(options))
    return "\n".join((row["question"], "Choices:", *lines))


def _open_ruling(given: CutAnswer | None, golds: Sequence[str]) -> Ruling:
    """Compare numbers to two decimals; a text must hold the words of a gold."""
    if given is None:
        return Ruling(False, None, "no answer")
    value = arithmetic(given.answer)
    for gold in golds:
        expected = arithmetic(gold)
        if expected is not None:
            same = value is not None and round(value, 2) == round(expected, 2)
        else:
            same = has_words(given.answer, gold)
        if same:
            return Ruling(True, given.answer, "open answer")
    return Ruling(False, given.answer, "open answer")
