r"""CharXiv, its reasoning questions (Wang et al. 2024, https://arxiv.org/abs/2406.18521).

Columns as in `princeton-nlp/CharXiv`; those of data/reasoning_val.json of the authors' repository
have other names. The answers of the split `test` are not public.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.arithmetic import arithmetic
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling
from vlm_rl.evaluation.benchmarks.cutting import cut, short
from vlm_rl.records import Problem
from vlm_rl.verification.notation import plain_text

_KINDS = {
    1: "text in the chart",
    2: "text in general",
    3: "number in the chart",
    4: "number in general",
}
_HINTS = {
    1: "The answer is text written in the chart, in full; separate several by commas.",
    2: "The answer is one of the options if the question has some, else a short phrase.",
    3: "The answer is a number written in the chart.",
}


class CharXiv(Benchmark):
    name = "charxiv"
    hub_id = "princeton-nlp/CharXiv"
    splits = ("validation",)
    columns = ("question", "answer", "kind")
    aliases: ClassVar[Mapping[str, str]] = {
        "reasoning_q": "question",
        "reasoning_a": "answer",
        "reasoning_a_type": "kind",
        "query": "question",
        "inst_category": "kind",
    }
    sizes: ClassVar[Mapping[str, int]] = {"validation": 1000}
    instruction = "Put the final answer in one \\boxed{}."
    published = (
        PublishedResult("human", 80.5, "CharXiv README, judged by GPT-4o"),
        PublishedResult("GPT-4o", 47.1, "CharXiv README, judged by GPT-4o"),
        PublishedResult("InternVL Chat V1.5", 29.2, "CharXiv README, judged by GPT-4o"),
    )
    notes = (
        "In the paper GPT-4o extracts and judges every answer. Its scores can be given as the "
        '`extraction` of a response (`{"score": 1}`). Without them there is the accuracy by '
        "reading, after the judge's own instructions: numbers equal in value, in any notation; "
        "terms the same in any order. That two phrases mean the same is not seen, so this is a "
        "lower bound for questions of the kind `text in general`."
    )

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        """Return the picture in the row, else its file as the authors name it."""
        return [row.get("image") or row.get("figure_path") or f"images/{row['figure_id']}.jpg"]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        kind = int(row["kind"])
        if kind not in _KINDS:
            raise BadRow("wrong value", f"the answer type {kind} is none of 1, 2, 3 and 4")
        answer = str(row["answer"]).strip()
        figure = row.get("figure_id")
        return Problem(
            uid=Path(row["figure_path"]).stem if figure is None else str(figure),
            question=f"{row['question']}\n{_HINTS.get(kind) or _decimals(answer)}",
            answer=answer,
            images=images,
            answer_type="text" if kind in (1, 2) else "number",
            meta={"categories": {"kind": _KINDS[kind]}},
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        given = short(cut(response, letters=""), max_words=12)
        return _ruling(problem, given.answer if given else None)

    def official_of_extraction(self, problem: Problem, extraction: object) -> Ruling:
        """Take the judge's score of `{"extracted_answer": .., "score": 1}`; rule on an answer."""
        if isinstance(extraction, Mapping) and "score" in extraction:
            answer = extraction.get("extracted_answer", extraction.get("extract_answer"))
            right = extraction["score"] == 1
            return Ruling(right, None if answer is None else str(answer), "score of the judge")
        return _ruling(problem, str(extraction))


def _ruling(problem: Problem, answer: str | None) -> Ruling:
    kind = problem.meta["categories"]["kind"]
    if answer is None:
        return Ruling(False, None, kind, by_reading=True)
    if kind.startswith("number"):
        value, expected = _value(answer), _value(problem.answer)
        return Ruling(value is not None and value == expected, answer, kind, by_reading=True)
    same = _terms(answer) == _terms(problem.answer)
    return Ruling(same, answer, kind, by_reading=True)


def _value(text: str) -> float | None:
    """Return the value of a number in any notation: `1,500`, `1.5e3`, `10^{-2}`, `12\\%` as 12."""
    digits = text.replace(r"\%", "").removesuffix("%").strip(" $")
    if re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d{1,3}", digits):
        mantissa, exponent = re.split("[eE]", digits)
        digits = f"{mantissa}*10^({exponent})"
    return arithmetic(digits)


def _terms(text: str) -> frozenset[str]:
    """Return the terms between commas, without case, LaTeX and the brackets around a term."""
    parts = (plain_text(part) for part in text.split(","))
    return frozenset(re.sub(r"^\((\w+)\)$|\s", r"\1", part) for part in parts if part)


def _decimals(answer: str) -> str:
    digits = answer.partition(".")[2]
    return f"The answer has {len(digits)} decimals." if digits else "The answer is an integer."
