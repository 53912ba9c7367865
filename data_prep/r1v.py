"""The two layouts in which sets of the R1-V project are published."""

from collections.abc import Mapping
from typing import Any

from data_prep.converter import Converter, Draft, items, text
from data_prep.golds import plain_answer, tagged_answer
from vlm_rl.records import AnswerType


class R1VConverter(Converter):
    """`image`, `problem`, `solution` with the answer in `<answer>` (R1-V's training script), and
    the variant with `images`, `problem`, `answer` (EasyR1's example scripts)."""

    layouts = (("image", "problem", "solution"), ("images", "problem", "answer"))
    task: str
    answer_type: AnswerType | None = None

    def draft(self, row: Mapping[str, Any]) -> Draft:
        worked = "solution" in row
        read, field = (tagged_answer, "solution") if worked else (plain_answer, "answer")
        return Draft(
            question=text(row["problem"]),
            answer=read(text(row[field])),
            images=items(row["image" if worked else "images"]),
            answer_type=self.answer_type,
            task=self.task,
        )
