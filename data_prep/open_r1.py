"""multimodal-open-r1-8k-verified: mathematics with images, reworked by GPT-4o; 7,689 train rows.

    python -m data_prep.open_r1 --output data/open_r1

Schema (TRL's and verl's example scripts): `image`, `problem`, `solution` (thinking, then
`<answer>`), `original_question`, `original_answer`. Licence: not stated where we could see it.

Flaws handled: only the answer of the solution is kept; no image mark in the question. Not handled:
many are choice questions with the options in the text, whose gold is a letter or an option's text.
"""

from collections.abc import Mapping
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, items, text
from data_prep.golds import tagged_answer


class OpenR1(Converter):
    """The published form."""

    name = "open_r1"
    hub_id = "lmms-lab/multimodal-open-r1-8k-verified"
    layouts = (("image", "problem", "solution", "original_question", "original_answer"),)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return Draft(
            question=text(row["problem"]),
            answer=tagged_answer(text(row["solution"])),
            images=items(row["image"]),
            meta={"original_answer": text(row["original_answer"])},
        )


if __name__ == "__main__":
    main(OpenR1())
