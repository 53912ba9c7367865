r"""DynaMath (Zou et al. 2024, https://arxiv.org/abs/2411.00836), MIT licence.

501 seed questions, each drawn in ten variants. Columns as in `DynaMath/DynaMath_Sample`, whose
splits are the variants. A local copy is a folder of `trial1/dataset.json` to `trial10/dataset.json`
with their images, as github.com/DynaMath/DynaMath generates it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.arithmetic import arithmetic
from vlm_rl.evaluation.benchmarks.benchmark import (
    Benchmark,
    Judged,
    PublishedResult,
    Ruling,
    TableSource,
)
from vlm_rl.evaluation.benchmarks.cutting import cut, has_words, labels_in, letter_of, short
from vlm_rl.evaluation.benchmarks.samples import ScoredProblem, over_samples
from vlm_rl.records import AnswerType, Problem
from vlm_rl.verification.extraction import after_thinking

NUM_VARIANTS = 10
_TOLERANCE = 0.001
_SHORT_ANSWER = re.compile(r'"short[ _]answer"\s*:\s*"?([^"\n}]*)', re.IGNORECASE)


class DynaMath(Benchmark):
    name = "dynamath"
    hub_id = "DynaMath/DynaMath_Sample"
    splits = ("sample",)
    columns = ("id", "question", "image", "answer", "answer_type", "subject", "level")
    sizes: ClassVar[Mapping[str, int]] = {"sample": 5010}
    aliases: ClassVar[Mapping[str, str]] = {"ground_truth": "answer", "knowledge_level": "level"}
    instruction = (
        "Give the solution, then a short answer in one \\boxed{}: the letter of an option where "
        "there are options, a number with three decimals where it is one."
    )
    published = (
        PublishedResult("MM-Eureka-7B", 23.0, "OpenMMReasoner, lmms-eval", "worst_case"),
        PublishedResult("OpenVLThinker-7B", 16.8, "OpenMMReasoner, lmms-eval", "worst_case"),
        PublishedResult("VL-Rethinker-7B", 17.8, "OpenMMReasoner, lmms-eval", "worst_case"),
        PublishedResult("OpenMMReasoner-7B", 34.9, "OpenMMReasoner, lmms-eval", "worst_case"),
    )
    notes = (
        "The authors count text as right where the gold stands anywhere in the answer, even one "
        "letter; here it has to be whole words. Worst case and consistency are over the questions "
        "with all ten variants judged; their share is given."
    )

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        variants = range(1, NUM_VARIANTS + 1)
        if Path(source, "trial1").is_dir():
            files = [(n, str(Path(source, f"trial{n}", "dataset.json"))) for n in variants]
            return [TableSource(file, None, columns={"variant": n}) for n, file in files]
        return [
            TableSource(source, f"{split}_variant{n}", columns={"variant": n}) for n in variants
        ]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return [row.get("decoded_image") or row["image"]]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        kind = row["answer_type"]
        answer = str(row["answer"]).strip()
        return Problem(
            uid=f"{row['id']}-{row['variant']}",
            question=row["question"],
            answer=answer,
            images=images,
            answer_type=_type(kind, answer),
            tolerance={"abs": _TOLERANCE} if kind == "float" else None,
            meta={
                "cluster": str(row["id"]),
                "categories": {
                    "subject": " ".join(row["subject"].split()),
                    "level": row["level"],
                    "answer_type": kind,
                },
                "variant": row["variant"],
                "num_options": labels_in(row["question"]) if kind == "multiple choice" else 0,
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        """Compare a number to within 0.001, the letter of a choice, the words of a text.

        The answer comes from the JSON that the authors ask for, else it is cut like any other.
        """
        answer = _short_answer(response)
        if answer is None:
            return Ruling(False, None, "no answer")
        kind = problem.meta["categories"]["answer_type"]
        if kind == "float":
            return Ruling(_close(problem.answer, answer), answer, "within 0.001")
        if kind == "multiple choice":
            letter = letter_of(answer)
            return Ruling(letter == problem.answer.strip(), letter, "letter")
        return Ruling(has_words(answer, problem.answer), answer, "words of the gold")

    def measures(self, judged: Sequence[Judged]) -> Mapping[str, float]:
        return over_samples(judged, robustness)


def robustness(outcomes: Sequence[ScoredProblem]) -> dict[str, float]:
    """Return the shares of right answers (average), of questions right in every variant (worst
    case), and of questions right in all variants or wrong in all (consistency)."""
    questions: dict[str, list[bool]] = {}
    for problem, correct in outcomes:
        questions.setdefault(problem.meta["cluster"], []).append(correct)
    whole = [variants for variants in questions.values() if len(variants) == NUM_VARIANTS]
    measures = {
        "average": sum(correct for _, correct in outcomes) / len(outcomes),
        "whole_questions": len(whole) / len(questions),
    }
    if whole:
        measures["worst_case"] = sum(map(all, whole)) / len(whole)
        measures["consistency"] = sum(len(set(variants)) == 1 for variants in whole) / len(whole)
    return measures


def _type(kind: str, answer: str) -> AnswerType | None:
    """Return the answer type; a gold of the kind text may be a word, a point, an equation or a
    number."""
    if kind == "multiple choice":
        return "choice"
    if kind in ("float", "int", "integer"):
        return "number"
    if answer.startswith("(") and "," in answer:
        return "tuple"
    return None if re.search(r"[\d=\\]", answer) else "text"


def _short_answer(response: str) -> str | None:
    named = _SHORT_ANSWER.findall(after_thinking(response))
    if named:
        return named[-1].strip() or None
    answer = short(cut(response))
    return None if answer is None else answer.answer


def _close(gold: str, answer: str) -> bool:
    """Compare numbers; what follows a number is a unit."""
    expected = arithmetic(gold)
    text = answer.replace("π", r"\pi")
    value = arithmetic(text)
    if value is None and text.split():
        value = arithmetic(text.split()[0])
    return expected is not None and value is not None and abs(value - expected) <= _TOLERANCE
