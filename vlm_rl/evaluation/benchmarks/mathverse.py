r"""MathVerse (Zhang et al. 2024, https://arxiv.org/abs/2403.14624).

Columns as in `AI4Math/MathVerse` and in data/testmini_text_only.json of
github.com/ZrrSkywalker/MathVerse. There are 788 problems, each in five versions that move the
information from the text into the image; a sixth without an image is a split of its own. In the
version "Vision Only" the whole question is in the image.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling, TableSource
from vlm_rl.evaluation.benchmarks.choosing import chosen
from vlm_rl.evaluation.benchmarks.cutting import labels_in
from vlm_rl.records import Problem

_CHOICES = re.compile(r"\n?Choices?:\s*\n(.*)\Z", re.DOTALL)
_CHOICE = re.compile(r"^([A-H])\s*[:.]\s*(.+)$", re.MULTILINE)
_IN_IMAGE = "The question is in the picture."


class MathVerse(Benchmark):
    name = "mathverse"
    hub_id = "AI4Math/MathVerse"
    splits = ("testmini", "testmini_text_only")
    columns = (
        "sample_index",
        "problem_index",
        "problem_version",
        "question",
        "image",
        "answer",
        "question_type",
        "metadata",
    )
    sizes: ClassVar[Mapping[str, int]] = {"testmini": 3940, "testmini_text_only": 788}
    instruction = (
        "First reason, then put the final answer in one \\boxed{}; where there are options, the "
        "letter of one."
    )
    published = (
        PublishedResult("Qwen2.5-VL-7B-Instruct", 47.9, "MM-Eureka README"),
        PublishedResult("MM-Eureka-7B", 50.3, "MM-Eureka README"),
        PublishedResult("OpenMMReasoner-7B", 63.8, "OpenMMReasoner, lmms-eval"),
    )
    notes = (
        "Published figures come from a judge model that extracts and compares. Only choices have "
        "a ruling here, by reading: their letters, which the judge would compare too. Of golds "
        "such as `Area $=9 \\mathrm{cm}^2$` only the value is kept; those in prose cannot be "
        "compared, and are excluded and counted. Published tables differ in whether they ask for "
        "an answer at once or for reasoning first."
    )

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        return [TableSource(source, split, None if Path(source).exists() else split)]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return [row["image"]] if row["image"] else []

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        is_choice, gold = row["question_type"] == "multi-choice", str(row["answer"])
        question, choices = _parted(row["question"]) if is_choice else (row["question"], ())
        return Problem(
            uid=f"{row['sample_index']}-text" if not row["image"] else str(row["sample_index"]),
            question=question.strip() or _IN_IMAGE,
            answer=_gold_letters(gold, choices) if is_choice else _gold_value(gold),
            images=images,
            answer_type="choice" if is_choice else None,
            choices=choices or None,
            meta={
                "cluster": str(row["problem_index"]),
                "categories": {
                    "version": row["problem_version"],
                    "subject": row["metadata"]["subject"],
                    "kind": "choice" if is_choice else "free",
                },
                "num_options": labels_in(row["question"]) if is_choice else 0,
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling | None:
        """Compare the letters of a choice with the gold; a free answer needs the judge."""
        if problem.answer_type != "choice":
            return None
        options = dict(zip("ABCDEFGH", problem.choices or (), strict=False))
        letters = chosen(response, options)
        right = letters == problem.answer.replace(", ", "")
        return Ruling(right, letters, "letters", by_reading=True)


def _gold_letters(gold: str, choices: Sequence[str]) -> str:
    """Return `(B)` as B, `C` and `D` on two lines as C, D, and an option as its letter."""
    if gold in choices:
        return "ABCDEFGH"[choices.index(gold)]
    if re.fullmatch(r"[\s,]*(?:\(?[A-H]\)?[\s,]*)+", gold):
        return ", ".join(sorted(re.findall("[A-H]", gold)))
    return gold


def _gold_value(gold: str) -> str:
    """Drop the name and the dollar signs of `Weight $=63.3 \\mathrm{~g}$`, an equals sign before a
    value, and mend a degree sign in the wrong encoding."""
    text = gold.replace("掳", "°")
    named = re.fullmatch(r"(?:[A-Za-z. ]{3,})?\$?=\s*([^$=]+)\$?(?:\s*([A-Za-z]+))?", text)
    return " ".join(filter(None, named.groups())).strip() if named else text


def _parted(question: str) -> tuple[str, tuple[str, ...]]:
    """Split off the choices, which are in the question as lines `A:40°`; if their letters leave a
    gap, there are none and the question stays whole."""
    block = _CHOICES.search(question)
    choices = _CHOICE.findall(block[1]) if block else []
    if block is None or "".join(letter for letter, _ in choices) != "ABCDEFGH"[: len(choices)]:
        return question, ()
    return question[: block.start()], tuple(text.strip() for _, text in choices)
