r"""LogicVista (Xiao et al. 2024, https://arxiv.org/abs/2407.04973).

Columns as in `lscpku/LogicVista`; data/dataset.json of github.com/Yijia-Xiao/LogicVista calls the
picture `imagename`. The options stand in the question or in the picture. Of the 448 published rows
one has no answer, one a number, and a few several letters.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, Published, Ruling
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
        Published("Qwen2.5-VL-3B-Instruct", 31.0, "AReaL with VLMEvalKit"),
        Published("MM-Eureka-7B", 46.3, "OpenMMReasoner, lmms-eval"),
        Published("OpenVLThinker-7B", 44.5, "OpenMMReasoner, lmms-eval"),
        Published("VL-Rethinker-7B", 42.7, "OpenMMReasoner, lmms-eval"),
        Published("OpenMMReasoner-7B", 50.0, "OpenMMReasoner, lmms-eval"),
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
        """The same set of letters."""
        found = short(cut(response, letters="ABCDEFGHI"))
        answer = None if found is None else _letters(found.answer) or found.answer.strip()
        gold = _letters(problem.answer) or problem.answer
        return Ruling(answer == gold, answer, "letters of our cut" if answer else "no answer")


def _letters(text: str) -> str | None:
    """`B, D` and `(D) and (B)` as BD."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip(" $*")
    if _LETTERS.fullmatch(text):
        return "".join(sorted(set(re.findall("[A-I]", text))))
    return letter_of(text)
