r"""DynaMath (Zou et al. 2024, https://arxiv.org/abs/2411.00836), MIT licence.

501 seed questions, each drawn in ten variants. Columns as in `DynaMath/DynaMath_Sample`, whose
splits are the variants. A local copy is a folder of `trial1/dataset.json` to `trial10/dataset.json`
with their images, as github.com/DynaMath/DynaMath generates it.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.benchmark import (
    Benchmark,
    Judged,
    PublishedResult,
    Ruling,
    TableSource,
)
from vlm_rl.evaluation.benchmarks.cutting import cut, labels_in, last_box, short
from vlm_rl.evaluation.benchmarks.samples import ScoredProblem, over_samples
from vlm_rl.records import AnswerType, Problem
from vlm_rl.verification.extraction import after_thinking

NUM_VARIANTS = 10
_TOLERANCE = 0.001
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
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
        "The official rule follows the authors' scripts: text is right where the gold stands "
        "anywhere in the answer, even one letter, a choice where its letter is among the first "
        "three characters (`AB` for A); `1/2`, `1,234` and `60°` are no numbers, and `2π/3` is 2π. "
        "Worst case and consistency are over the questions with all ten variants judged; their "
        "share is given."
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
        """Apply the three rules of the authors' evaluation scripts to the short answer: a number to
        within 0.001, the letter of a choice among the first three characters, the gold anywhere in
        a text."""
        answer = _short_answer(response)
        if answer is None:
            return Ruling(False, None, "no answer")
        kind, gold = problem.meta["categories"]["answer_type"], problem.answer
        if kind == "float":
            return Ruling(_close(gold, answer), answer, "within 0.001")
        if kind == "multiple choice":
            return Ruling(gold in answer[:3], answer, "letter in the first three characters")
        return Ruling(gold in answer, answer, "gold in the answer")

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
    """Return the short answer of the JSON that the authors ask for, else what a rule cuts out,
    without LaTeX: the authors read none."""
    text = after_thinking(response)
    named = _SHORT_ANSWER.findall(text)
    try:
        answer = str(json.loads(text[text.index("{") : text.rindex("}") + 1])["short answer"])
    except (ValueError, LookupError, TypeError, RecursionError):
        box, given = last_box(response), short(cut(response))
        cut_out = box if box is not None else given.answer if given else ""
        answer = named[-1] if named else cut_out
        answer = _TEXT.sub(r"\1", answer).replace(r"\pi", "π").replace(r"^\circ", " degrees")
    return answer.strip(" $") or None


def _close(gold: str, answer: str) -> bool:
    """Compare numbers as the authors do: what follows the first space or a π is left out, and
    anything but a decimal number, such as 1/2 or 1,234, is none."""
    number, pi, _ = answer.split(" ")[0].partition("π")
    try:
        return abs(float(number) * (math.pi if pi else 1) - float(gold)) <= _TOLERANCE
    except ValueError:
        return False
