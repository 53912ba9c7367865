"""MathVista (Lu et al. 2024, https://arxiv.org/abs/2310.02255), CC BY-SA 4.0.

Columns as in `AI4Math/MathVista` and in data/testmini.json of github.com/lupantech/MathVista, where
`image` is a path and the hub adds `decoded_image`. The answers of the split `test` are not public.
Its 31 sources have their own licences.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.arithmetic import arithmetic
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling
from vlm_rl.evaluation.benchmarks.choosing import SENTENCE, chosen
from vlm_rl.evaluation.benchmarks.cutting import cut, last_box
from vlm_rl.records import AnswerType, Problem

_LETTERS = "ABCDEFGHI"
_NUMBER_WORD = re.compile(
    r"\b(?:zero|two|three|four|five|six|seven|eight|nine|ten)\b", re.IGNORECASE
)
_A_NUMBER = re.compile(
    r"(?<![\w.^_])-?(?:\d{1,3}(?:,\d{3}){1,6}(?!\d)|\d+)(?:\.\d+)?(?![\w^]|\.\d)"
)
_CATEGORIES = ("category", "task", "context", "grade", "language")
_HINTS = {
    "integer": "The answer is an integer.",
    "list": "The answer is a list such as [1, 2, 3].",
}


class MathVista(Benchmark):
    name = "mathvista"
    hub_id = "AI4Math/MathVista"
    splits = ("testmini",)
    columns = (
        "pid",
        "question",
        "image",
        "choices",
        "unit",
        "precision",
        "answer",
        "question_type",
        "answer_type",
        "metadata",
    )
    sizes: ClassVar[Mapping[str, int]] = {"testmini": 1000}
    instruction = (
        "Answer the question; for a choice give the letter of the option. Put the final answer in "
        "one \\boxed{}."
    )
    published = (
        PublishedResult("Qwen2.5-VL-3B-Instruct", 62.3, "Qwen2.5-VL README"),
        PublishedResult("Qwen2.5-VL-7B-Instruct", 68.2, "Qwen2.5-VL README"),
        PublishedResult("Qwen2.5-VL-72B-Instruct", 74.8, "Qwen2.5-VL README"),
        PublishedResult("MM-Eureka-7B", 73.0, "MM-Eureka README"),
        PublishedResult("Qwen2.5-VL-3B-Instruct", 52.3, "AReaL with VLMEvalKit"),
        PublishedResult("OpenMMReasoner-7B", 79.5, "OpenMMReasoner, lmms-eval"),
    )
    notes = (
        "The authors let a model extract the answer and then apply a rule, which takes the nearest "
        "option for anything that is none: the official figure needs that extraction and has its "
        "chance credit. By reading there is none. One checkpoint is published with 62.3 and 52.3: "
        "prompt and extraction matter more than most gains."
    )

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return [row.get("decoded_image") or row["image"]]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        choices = tuple(row["choices"] or ())
        kind, gold = row["answer_type"], str(row["answer"])
        digits = None if row["precision"] is None else int(row["precision"])
        if choices and gold not in choices:
            raise BadRow("wrong value", f"the answer {gold!r} is none of the choices")
        unit = row["unit"] or None
        hint = _HINTS.get(kind, f"The answer has {digits} decimals." if kind == "float" else "")
        question = row["question"] + (f" (Unit: {unit})" if unit else "")
        return Problem(
            uid=str(row["pid"]),
            question=question if choices or not hint else f"{question}\n{hint}",
            # as a letter, since the text of an option may look like the letter of another
            answer=_letters(choices)[choices.index(gold)] if choices else gold,
            images=images,
            answer_type=_type(kind, bool(choices), bool(unit)),
            choices=choices or None,
            unit=unit,
            tolerance=None if kind != "float" or digits is None else {"decimals": digits},
            meta={
                "categories": {"answer_type": kind}
                | {name: row["metadata"][name] for name in _CATEGORIES},
                "gold": gold,
                "kind": kind,
                "precision": digits,
                "num_options": len(choices),
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        """Apply the authors' rule to what we read in the response. An answer that is neither an
        option nor its letter is wrong: the nearest option would be a guess."""
        if problem.choices:
            letter = chosen(response, dict(zip(_LETTERS, problem.choices, strict=False)))
            single = letter if letter and len(letter) == 1 else None
            option = single and problem.choices[_LETTERS.index(single)]
            return Ruling(option == problem.meta["gold"], option, "option", by_reading=True)
        kind = problem.meta["kind"]
        number = _number(_given(response, kind), kind, problem.meta["precision"])
        return Ruling(number == problem.meta["gold"], number, kind, by_reading=True)

    def official_of_extraction(self, problem: Problem, extraction: object) -> Ruling:
        """Compare as strings, as evaluation/calculate_score.py of the authors does: the option of a
        letter, else the option at the smallest edit distance; an integer cut towards 0; a float
        rounded; text as it is."""
        if problem.choices:
            answer, rule = _option(str(extraction), problem.choices)
            return Ruling(answer == problem.meta["gold"], answer, rule)
        kind = problem.meta["kind"]
        number = _number(extraction, kind, problem.meta["precision"])
        return Ruling(number == problem.meta["gold"], number, kind)


def _letters(choices: Sequence[str]) -> str:
    return _LETTERS[: len(choices)]


def _option(extraction: str, choices: Sequence[str]) -> tuple[str, str]:
    text = extraction.strip()
    bracketed = re.search(r"\(([a-zA-Z])\)", text)
    letter = bracketed[1].upper() if bracketed else text
    if len(letter) == 1 and letter in _letters(choices):
        return choices[ord(letter) - ord("A")], "option letter"
    distances = [edit_distance(letter, choice) for choice in choices]
    return choices[distances.index(min(distances))], "nearest option"


def _number(extraction: object, kind: str, precision: int | None) -> str | None:
    if kind not in ("integer", "float"):
        return str(extraction)
    try:
        value = float(str(extraction))
        return str(int(value)) if kind == "integer" else str(round(value, precision))
    except (ValueError, OverflowError):
        return None


def _given(response: str, kind: str) -> str | None:
    """Return the answer as the authors' extracting model would give it: what is in the box or what
    is announced; of numbers, the only one there, else the only one in the last sentence."""
    box, given = last_box(response), cut(response)
    if given is None or kind not in ("integer", "float"):
        return given.answer if given else None
    last = SENTENCE.split(given.answer.strip())[-1]
    parts = [given.answer, last] if box is None else [box]
    return next(filter(None, (_only_number(part.replace("**", "")) for part in parts)), None)


def _only_number(text: str) -> str | None:
    value = arithmetic(text)
    if value is not None:
        return str(value)
    found = {number.replace(",", "") for number in _A_NUMBER.findall(text)}
    # "two bars have values above 4" does not say 4
    words = _NUMBER_WORD.findall(text)
    return found.pop() if len(found) == 1 and not words else None


def _type(kind: str, is_choice: bool, has_unit: bool) -> AnswerType:
    if is_choice:
        return "choice"
    if kind == "list":
        return "list"
    return "number_unit" if has_unit else "number"


def edit_distance(left: str, right: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and substitutions, each of cost 1."""
    previous = list(range(len(right) + 1))
    for row, ours in enumerate(left, 1):
        current = [row]
        for column, theirs in enumerate(right, 1):
            swap = previous[column - 1] + (ours != theirs)
            current.append(min(previous[column] + 1, current[-1] + 1, swap))
        previous = current
    return previous[-1]
