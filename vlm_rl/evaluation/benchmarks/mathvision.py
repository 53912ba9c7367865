r"""MathVision (MATH-V, Wang et al. 2024, https://arxiv.org/abs/2402.14804), MIT licence.

Columns as in `MathLLMs/MathVision` and in data/test.jsonl of github.com/mathllm/MATH-V, where
`image` is a path and the hub adds `decoded_image`. Several `<imageN>` marks stand for parts of one
merged image, so they stay text.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.arithmetic import arithmetic
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling
from vlm_rl.evaluation.benchmarks.cutting import cut
from vlm_rl.records import AnswerType, Problem

_LABELS = "abcdefgh"
_IMAGE = re.compile(r"\s*<image\s*\d*>\s*")
_DROPPED = re.compile(
    r"\{\}|\s|\\[,!]|\\left|\\right|\\text|\\mbox|\^\{\\circ\}|\^\\circ|\\?\$|\\%"
    r"|\{?m\}?\^3|\{(?:units|km)\}|units|km"
)
_LETTER_IN_BRACKETS = re.compile(r"[({]([a-e])[)}]")


class MathVision(Benchmark):
    name = "mathvision"
    hub_id = "MathLLMs/MathVision"
    splits = ("testmini", "test")
    columns = ("id", "question", "options", "answer", "image", "level", "subject")
    sizes: ClassVar[Mapping[str, int]] = {"testmini": 304, "test": 3040}
    instruction = (
        "Solve this step by step and put the answer in one \\boxed{}; where there are options, "
        "only the letter of one."
    )
    published = (
        PublishedResult("Qwen2.5-VL-3B-Instruct", 21.2, "Qwen2.5-VL README; split not named there"),
        PublishedResult("Qwen2.5-VL-7B-Instruct", 25.1, "Qwen2.5-VL README; split not named there"),
        PublishedResult(
            "Qwen2.5-VL-72B-Instruct", 38.1, "Qwen2.5-VL README; split not named there"
        ),
        PublishedResult("MM-Eureka-7B", 26.9, "MM-Eureka README"),
        PublishedResult("Qwen2.5-VL-3B-Instruct", 18.3, "AReaL with VLMEvalKit, testmini"),
        PublishedResult("OpenMMReasoner-7B", 43.6, "OpenMMReasoner, lmms-eval, test"),
    )
    notes = (
        "Options that only name what the picture shows (`A`, `$a$`, `<image2>`) are left out of "
        "the prompt, as the authors do with the letters. The official rule rounds to two decimals; "
        "its authors evaluate model text as code, here the same arithmetic is read without that."
    )

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return [row.get("decoded_image") or row["image"]]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        options = _options(row["options"])
        gold = str(row["answer"])
        value = _value_of(gold, options)
        answer, unit = repaired(gold)
        kind = _type(answer, bool(options))
        return Problem(
            uid=str(row["id"]),
            question=row["question"],
            answer=answer,
            images=images,
            answer_type=kind,
            choices=None if _only_labels(options) else options or None,
            unit=unit,
            meta={
                "categories": {
                    "level": str(row["level"]),
                    "subject": row["subject"],
                    "kind": "choice" if options else "free",
                },
                "gold": gold,
                "gold_value": value,
                # a gold that is a letter without options: these are in the image
                "num_options": len(options) or (None if kind == "choice" else 0),
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        """Compare the cut answer with the gold or, of a choice, with the value of its option: as
        text in lower case, or as a number rounded to two decimals."""
        given = cut(response, letters="ABCDE")
        answer = tidy(given.answer) if given else ""
        if given is None or not answer:
            return Ruling(False, None, "no answer")
        correct = equal(problem.meta["gold"], answer) or equal(problem.meta["gold_value"], answer)
        return Ruling(correct, answer, given.how)


def tidy(answer: str) -> str:
    r"""Return a cut answer in the authors' spelling: what follows the last `=` or `\approx`, in
    lower case, without spaces, degree and dollar signs, and a few units; `(a)` becomes `a`."""
    text = re.split(r"=|\\approx", answer.lower())[-1]
    text = _DROPPED.sub("", text).replace(r"\tfrac", r"\frac").replace(r"\dfrac", r"\frac")
    for _ in range(2):  # `\text{(A)}` has two
        text = _LETTER_IN_BRACKETS.sub(r"\1", text)
    return text.rstrip(".").lstrip(":").strip()


def equal(gold: str, answer: str) -> bool:
    """Whether both are the same text, or the same number to two decimals; tuples by element."""
    gold, answer = gold.lower().strip(), answer.lower().strip()
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    parts, given = _elements(gold), _elements(answer)
    if len(parts) != len(given):
        return False
    values = [(arithmetic(g), arithmetic(a)) for g, a in zip(parts, given, strict=True)]
    return all(g is not None and a is not None and round(g, 2) == round(a, 2) for g, a in values)


def repaired(gold: str) -> tuple[str, str | None]:
    r"""Split a gold into mathematics and unit: repair a form feed that was `\f`, drop a box around
    it, and take words in braces at its end for the unit."""
    text = gold.replace("\x0c", r"\f").strip().strip("$").strip()
    if boxed := re.fullmatch(r"\\boxed\{(.*)\}", text):
        text = boxed[1]
    text, degrees = re.subn(r"\s*(?:\^\{?\\circ\}?|\{degrees\})$", "", text)
    unit = re.search(r"\{([a-z]+)\}$", text)
    if unit:
        text = text[: unit.start()]
    return text, "°" if degrees else unit[1] if unit else None


def _options(cell: object) -> tuple[str, ...]:
    if cell is not None and not isinstance(cell, list):
        raise BadRow("wrong type", f"options {cell!r:.50} are not a list")
    return tuple(map(str, cell or ()))


def _value_of(gold: str, options: Sequence[str]) -> str:
    """Return the option that the letter `gold` names, "" without options."""
    letters = [chr(ord("A") + index) for index in range(len(options))]
    if options and gold.strip() not in letters:
        raise BadRow(
            "wrong value", f"the answer {gold!r} is not a letter of the {len(options)} options"
        )
    return options[letters.index(gold.strip())] if options else ""


def _type(answer: str, is_choice: bool) -> AnswerType | None:
    if is_choice or re.fullmatch("[A-E]", answer):
        return "choice"
    return "ratio" if re.fullmatch(r"\d+:\d+", answer) else None


def _only_labels(options: Sequence[str]) -> bool:
    """Whether options say no more than the image: letters in order, or marks of its parts."""
    if all(map(_IMAGE.fullmatch, options)):
        return True
    labels = "".join(option.strip(" ().:$").lower() for option in options)
    return len(labels) == len(options) and _LABELS.startswith(labels)


def _elements(text: str) -> list[str]:
    """Return the parts of `(3,-4)`; a thousands comma, outside brackets, separates nothing."""
    inside = re.fullmatch(r"\((.*,.*)\)|\[(.*,.*)\]", text)
    return (inside[1] or inside[2]).split(",") if inside else [text]
