"""HallusionBench (Guan et al. 2024, https://arxiv.org/abs/2310.14566), BSD 3-Clause.

Columns as in `lmms-lab/HallusionBench` and in HallusionBench.json of the authors' repository.
Questions of the category VS are asked without a picture (`figure_id` 0) and with some; VD questions
always have one. All answers are yes (1) or no (0).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.benchmark import (
    Benchmark,
    Judged,
    PublishedResult,
    Ruling,
    TableSource,
)
from vlm_rl.evaluation.benchmarks.cutting import cut, last_box
from vlm_rl.evaluation.benchmarks.samples import ScoredProblem, over_samples
from vlm_rl.records import Problem
from vlm_rl.verification.extraction import after_thinking

_SOURCE = "HallusionBench README, judged by GPT-4"
_JUDGED = {"0": False, "1": True, "2": None, "incorrect": False, "correct": True, "unclear": None}
_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")


class HallusionBench(Benchmark):
    name = "hallusionbench"
    hub_id = "lmms-lab/HallusionBench"
    splits = ("all", "image")
    columns = (*_KEYS, "visual_input", "question", "answer", "filename")
    aliases: ClassVar[Mapping[str, str]] = {"gt_answer": "answer"}
    sizes: ClassVar[Mapping[str, int]] = {"all": 1129, "image": 951}
    instruction = "Put the answer, yes or no, in one \\boxed{}."
    published = (
        PublishedResult("GPT-4V", 65.28, _SOURCE, "aAcc"),
        PublishedResult("GPT-4V", 39.88, _SOURCE, "fAcc"),
        PublishedResult("GPT-4V", 28.79, _SOURCE, "qAcc"),
        PublishedResult("LLaVA-1.5", 46.94, _SOURCE, "aAcc"),
        PublishedResult("LLaVA-1.5", 24.86, _SOURCE, "fAcc"),
        PublishedResult("LLaVA-1.5", 10.55, _SOURCE, "qAcc"),
        PublishedResult("Qwen-VL", 39.15, _SOURCE, "aAcc"),
        PublishedResult("Qwen-VL", 6.65, _SOURCE, "fAcc"),
        PublishedResult("Qwen-VL", 5.93, _SOURCE, "qAcc"),
    )
    notes = (
        "The authors let GPT-4 call each response correct, incorrect or unclear; these words, or "
        "their 1, 0 and 2, can be given as the `extraction` of a response. Without them a rule of "
        "ours reads yes or no: the box, an announced answer, the first word, or the only one of "
        "the two in the text. What is neither is unclear, which the authors count as right where "
        "a VS question has no picture; an empty response is wrong. aAcc is over questions, fAcc "
        "over figures all of whose questions are right, qAcc over questions that are right on all "
        "their figures; they need the split `all`. easy and hard are by question over the pictures "
        "that are not edited and those that are, as in the authors' script. Others report the 951 "
        "questions with a picture, which is the split `image`."
    )

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        if source != self.hub_id or split != "all":
            return super().tables(source, split)
        return [TableSource(source, part) for part in ("image", "non_image")]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        if str(row["visual_input"]) == "0":
            return ()
        return [row.get("image") or row["filename"]]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        gold = str(row["answer"]).strip()
        if gold not in ("0", "1"):
            raise BadRow("wrong value", f"the answer {gold!r} is neither 0 nor 1")
        keys = [str(row[name]) for name in _KEYS]
        category, subcategory, chain, figure, question = keys
        return Problem(
            uid="/".join(keys),
            question=row["question"],
            answer="yes" if gold == "1" else "no",
            images=images,
            answer_type="text",
            meta={
                # all questions and figures of a set are about one thing
                "cluster": "/".join((category, subcategory, chain)),
                "categories": {"category": category, "subcategory": subcategory},
                "figure": "/".join((category, subcategory, chain, figure)),
                "pair": "/".join((category, subcategory, chain, question)),
                "has_figure": category != "VS" or figure != "0",
                "edited": str(row["visual_input"]) == "2",
                "num_options": 2,
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        said = yes_or_no(response)
        if said is None:
            unclear = bool(after_thinking(response).strip()) and not problem.meta["has_figure"]
            return Ruling(unclear, None, "unclear", by_reading=True)
        return Ruling(said == problem.answer, said, "yes or no", by_reading=True)

    def official_of_extraction(self, problem: Problem, extraction: object) -> Ruling | None:
        """Take the judgement of GPT-4, as assign_correctness in the authors' utils.py does."""
        word = str(extraction).strip().lower()
        if word not in _JUDGED:
            return None
        judged = _JUDGED[word]
        right = judged if judged is not None else not problem.meta["has_figure"]
        return Ruling(right, word, "judgement of GPT-4")

    def measures(self, judged: Sequence[Judged]) -> Mapping[str, float]:
        return over_samples(judged, accuracies)


def yes_or_no(response: str) -> str | None:
    """Return what a response says, None if it says neither."""
    text = after_thinking(response).strip()
    box = last_box(response)
    given = cut(response, letters="")
    if box is None and given is not None and given.how == "phrase":
        text = f"{given.answer}\n{text}"
    words = re.findall(r"[a-z]+", (text if box is None else box).lower().replace("\\text", ""))
    if words and words[0] in ("yes", "no"):
        return str(words[0])
    said = {"yes", "no"} & set(words)
    return said.pop() if len(said) == 1 else None


def accuracies(outcomes: Sequence[ScoredProblem]) -> dict[str, float]:
    """Compute aAcc, fAcc and qAcc of evaluation.py, and its easy and hard accuracy."""
    parts: dict[str, tuple[Callable[[Problem], object], Callable[[Problem], bool]]] = {
        "aAcc": (lambda one: one.uid, lambda one: True),
        "fAcc": (lambda one: one.meta["figure"], lambda one: one.meta["has_figure"]),
        "qAcc": (lambda one: one.meta["pair"], lambda one: True),
        "easy": (lambda one: one.meta["pair"], lambda one: not one.meta["edited"]),
        "hard": (lambda one: one.meta["pair"], lambda one: one.meta["edited"]),
    }
    rates = {}
    for name, (key, keep) in parts.items():
        groups: dict[object, bool] = {}
        for problem, correct in outcomes:
            if keep(problem):
                groups[key(problem)] = groups.get(key(problem), True) and correct
        if groups:
            rates[name] = sum(groups.values()) / len(groups)
    return rates
