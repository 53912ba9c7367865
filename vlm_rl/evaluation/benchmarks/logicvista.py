r"""LogicVista (Xiao et al. 2024, https://arxiv.org/abs/2407.04973).

Columns as in `lscpku/LogicVista`; data/dataset.json of github.com/Yijia-Xiao/LogicVista calls the
image `imagename`. The options are in the question or in the image. Of the 448 published rows one
has no answer, one has a number, and a few have several letters.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, PublishedResult, Ruling
from vlm_rl.evaluation.benchmarks.cutting import cut, labels_in, letter_of, short
from vlm_rl.records import Problem

_LETTERS = re.compile(r"\(?[A-I]\)?(?:(?:\s*[,;&]\s*|\s+and\s+|\s*)\(?[A-I]\)?)*\.?")


class LogicVista(Benchmark):
    name = "logicvista"
    hub_id = "lscpku/LogicVista"
    splits = ("test",)
    columns = ("id", "question", "answer", "image", "skill")
    sizes: ClassVar[Mapping[str, int]] = {"test": 448}
    aliases: ClassVar[Mapping[str, str]] = {"imagename": "image"}
    flawed_rows = 1
    instruction = (
        "Give the letter of the right option, or all letters where several are right, in one "
        "\\boxed{}."
    )
    published = (
        PublishedResult("Qwen2.5-VL-3B-Instruct", 31.0, "AReaL with VLMEvalKit"),
        PublishedResult("MM-Eureka-7B", 46.3, "OpenMMReasoner, lmms-eval"),
        PublishedResult("OpenVLThinker-7B", 44.5, "OpenMMReasoner, lmms-eval"),
        PublishedResult("VL-Rethinker-7B", 42.7, "OpenMMReasoner, lmms-eval"),
        PublishedResult("OpenMMReasoner-7B", 50.0, "OpenMMReasoner, lmms-eval"),
    )
    notes = "The authors let a model extract the letters; the official figure rests on our cut."

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        answer = str(row["answer"]).strip()
        skills = row["skill"] if isinstance(row["skill"], list) else [row["skill"]]
        return Problem(
            uid=str(row["id"]),
            question=row["question"],
            answer=answer,
            images=images,
            answer_type="number" if answer.isdigit() else "choice",
            meta={
                "categories": {"skill": ", ".join(skills)},
                "num_options": labels_in(row["question"]) if answer in set("ABCDEFGHI") else None,
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        """Compare the sets of letters."""
        given = short(cut(response, letters="ABCDEFGHI"))
        answer = None if given is None else _letters(given.answer) or given.answer.strip()
        gold = _letters(problem.answer) or problem.answer
        return Ruling(answer == gold, answer, "letters of our cut" if answer else "no answer")


def _letters(text: str) -> str | None:
    """Read `B, D` and `(D) and (B)` as BD."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip(" $*")
    if _LETTERS.fullmatch(text):
        return "".join(sorted(set(re.findall("[A-I]", text))))
    return letter_of(text)
