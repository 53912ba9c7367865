"""MMK12: school problems in mathematics and science with images; 15,616 train problems.

    python -m data_prep.mmk12 --output data/mmk12

Schema: `id`, `question`, `answer`, `subject`, `image`; not confirmed at the source, but used by
other projects' loaders of FanqingM/MMK12. The `test` split holds choice questions with the
options in the text and a letter for an answer. Licence: not stated where we could see it.

Flaws handled: marks and images that differ in number, rows without an image.
"""

from collections.abc import Mapping
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, items, text
from data_prep.golds import plain_answer


class MMK12(Converter):
    """The published form."""

    name = "mmk12"
    hub_id = "FanqingM/MMK12"
    layouts = (("id", "question", "answer", "subject", "image"),)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return Draft(
            question=text(row["question"]),
            answer=plain_answer(text(row["answer"])),
            images=items(row["image"]),
            id=text(row["id"]) or None,
            task=text(row["subject"]),
        )


if __name__ == "__main__":
    main(MMK12())
