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
from vlm_rl.evaluation.benchmarks.choosing import chosen, options_in
from vlm_rl.evaluation.benchmarks.cutting import cut, labels_in, short
from vlm_rl.records import Problem


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
    notes = (
        "The authors let a model extract the letters, which it may infer from reasoning; ours "
        "reads letters and the words of an option."
    )

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
                "options": options_in(row["question"]),
                "num_options": labels_in(row["question"]) if answer in set("ABCDEFGHI") else None,
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        """Compare the sets of letters; the one gold that is a number, with what is cut out."""
        if problem.answer_type == "number":
            given = short(cut(response))
            number = given.answer.strip() if given else None
            return Ruling(number == problem.answer, number, "number", by_reading=True)
        letters = chosen(response, problem.meta["options"])
        return Ruling(letters == _letters(problem.answer), letters, "letters", by_reading=True)


def _letters(gold: str) -> str:
    """Read `B, D` as BD."""
    return "".join(sorted(re.findall("[A-I]", gold)))
