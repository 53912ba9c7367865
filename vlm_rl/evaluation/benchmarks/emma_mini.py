r"""EMMA-mini (Hao et al. 2025, https://arxiv.org/abs/2501.05444): 100 questions of each subject.

Columns as in `luckychao/EMMA-mini`, where each subject is a configuration. `<image_1>` in context,
question and options marks the place of an image.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.arithmetic import arithmetic
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling, TableSource
from vlm_rl.evaluation.benchmarks.cutting import last_box
from vlm_rl.evaluation.benchmarks.placing import in_order, marked, names_image
from vlm_rl.records import Problem
from vlm_rl.verification.extraction import after_thinking

SUBJECTS = ("Math", "Physics", "Chemistry", "Coding")
_IMAGE = "<image_{}>"
_LETTERS = "ABCDEFGHI"
_IN_IMAGE = "The question is in the picture."
_ANNOUNCED = ("final answer is", "correct answer is", "answer should be", "answer is")


class EMMAMini(Benchmark):
    name = "emma_mini"
    hub_id = "luckychao/EMMA-mini"
    splits = ("test",)
    columns = ("pid", "question", "options", "answer", "subject", "type", "context", "image_1")
    sizes: ClassVar[Mapping[str, int]] = {"test": 400}
    instruction = (
        "Answer with the letter of the option where there are options, else with a word or phrase, "
        "and put it in one \\boxed{}. Solve the problem step by step."
    )
    published = (
        PublishedResult("random choice", 22.75, "EMMA README"),
        PublishedResult("human expert", 77.75, "EMMA README"),
        PublishedResult("Qwen2-VL-72B-Instruct, direct", 37.25, "EMMA README"),
        PublishedResult("Qwen2-VL-72B-Instruct, CoT", 31.0, "EMMA README"),
        PublishedResult("InternVL2.5-78B, direct", 35.25, "EMMA README"),
        PublishedResult("InternVL2.5-78B, CoT", 27.5, "EMMA README"),
        PublishedResult("GPT-4o, CoT", 36.0, "EMMA README"),
        PublishedResult("o1", 45.75, "EMMA README"),
    )
    notes = (
        "The official rule is the authors' fast evaluation, which needs no model: a letter alone, "
        "a number alone, the last box, else what follows the answer's announcement, must be the "
        "gold or the text of its option in any case, or equal it to two decimals. Two formulas "
        "with variables are compared as text; their script also simplifies the difference."
    )

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        if source != self.hub_id:
            return super().tables(source, split)
        return [TableSource(source, split, subject) for subject in SUBJECTS]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        """Return images in the order in which the problem names them, the unnamed ones first."""
        return [row[f"image_{n}"] for n in in_order(_whole_text(row), _there(row), _IMAGE)]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        options, text = _options(row), _whole_text(row)
        answer = str(row["answer"]).strip()
        if options and (len(answer) != 1 or answer.upper() not in _LETTERS[: len(options)]):
            raise BadRow("wrong value", f"the answer {answer!r} is none of {len(options)} options")
        shown = options and not any(names_image(option, _IMAGE) for option in options)
        return Problem(
            uid=row["pid"],
            question=marked(text, _there(row), _IMAGE) if images else text,
            answer=answer.upper() if options else answer,
            images=images,
            answer_type="choice" if options else None,
            choices=options if shown else None,
            meta={
                "categories": {
                    "subject": row["subject"],
                    "kind": "choice" if options else "open",
                },
                "options": options,
                "num_options": len(options),
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        answer, how = _extracted(after_thinking(response).strip())
        golds = [problem.answer]
        if options := problem.meta["options"]:
            golds.append(options[_LETTERS.index(problem.answer)])
        right = any(_same(answer, gold) for gold in golds)
        return Ruling(right, answer or None, how)


def _extracted(text: str) -> tuple[str, str]:
    """Extract an answer as evaluation/evaluate.py of github.com/EMMA-Bench/EMMA does."""
    for letter in "ABCDEFGH":
        if text.upper() == letter or text.startswith(f"{letter}:"):
            return letter, "letter"
    if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text):
        return text, "number"
    if box := last_box(text):
        inside = re.findall(r"\\text{(.*?)}", box)
        return (inside[-1] if inside else box).strip(), "box"
    for phrase in _ANNOUNCED:
        if phrase in text.lower():
            behind = text.lower().split(phrase)[-1].strip()
            return behind.split("\n")[0].split(".")[0], "phrase"
    return text, "text"


def _same(answer: str, gold: str) -> bool:
    answer, gold = answer.lower().strip(), gold.lower().strip()
    if answer == gold:
        return True
    value, expected = arithmetic(answer), arithmetic(gold)
    return value is not None and expected is not None and round(value, 2) == round(expected, 2)


def _there(row: Mapping[str, Any]) -> list[int]:
    return [number for number in range(1, 6) if row.get(f"image_{number}")]


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    is_choice = row["type"].strip().lower() == "multiple choice"
    options = tuple(str(option) for option in row["options"] or ())
    if is_choice and len(options) < 2:
        raise BadRow("wrong value", f"a multiple choice has {len(options)} options")
    return options if is_choice else ()


def _whole_text(row: Mapping[str, Any]) -> str:
    """Return context and question, with the options if these hold images."""
    options = _options(row)
    context = row["context"] if (row["context"] or "none").lower() != "none" else None
    lines = [part for part in (context, row["question"]) if part]
    if any(names_image(option, _IMAGE) for option in options):
        lines += [
            "Choices:",
            *(f"({letter}) {option}" for letter, option in zip(_LETTERS, options, strict=False)),
        ]
    return "\n".join(lines) or _IN_IMAGE
