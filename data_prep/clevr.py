"""CLEVR counting: how many items are in a rendered scene; 70,000 train problems.

    python -m data_prep.clevr --output data/clevr
    python -m data_prep.clevr --output data/clevr --source BUAADreamer/clevr_count_70k

Schema (R1-V's training script): `image`, `problem`, `solution` = `<answer> 3 </answer>`; the
variant BUAADreamer/clevr_count_70k has `images`, `problem`, `answer` (EasyR1's example scripts).
Licence: CC-BY 4.0 (CLEVR).

Flaws handled: no image mark in the question. Not handled: one fixed question, so that training on
it alone saturates early; `--exclude-benchmarks` would remove all of it for one benchmark problem
with the same question.
"""

from collections.abc import Mapping
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, items, text
from data_prep.golds import plain_answer, tagged_answer


class Clevr(Converter):
    """Both published forms."""

    name = "clevr"
    hub_id = "leonardPKU/clevr_cogen_a_train"
    layouts = (("image", "problem", "solution"), ("images", "problem", "answer"))

    def draft(self, row: Mapping[str, Any]) -> Draft:
        worked = "solution" in row
        return Draft(
            question=text(row["problem"]),
            answer=tagged_answer(text(row["solution"]))
            if worked
            else plain_answer(text(row["answer"])),
            images=items(row["image" if worked else "images"]),
            answer_type="number",
            task="counting",
        )


if __name__ == "__main__":
    main(Clevr())
