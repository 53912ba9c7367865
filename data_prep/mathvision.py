"""MathVision: competition mathematics with items, a benchmark; 3,040 test, 304 testmini rows.

    python -m data_prep.mathvision --output data/mathvision --split testmini

Schema (the card of MathLLMs/MathVision): `id`, `question`, `options`, `image` (a path),
`decoded_image`, `answer`, `solution`, `level`, `subject`. The authors' repository has the same in
`<split>.jsonl`, without `decoded_image`, beside an `images` folder: name that folder as the source.
Licence: MIT.

Flaws handled: several marks `<image1> <image2>` for one merged picture (the first mark is kept);
options that only repeat the letters drawn in the picture (no choices are then written); golds
`'11 '`, `'\\x0crac{36}{13}'`, `69{degrees}`. Nothing is taken out as a repeat.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, items, text
from data_prep.golds import plain_answer
from vlm_rl.records import IMAGE_MARK

_MARK = re.compile(r"<image\s*\d*>")
_GLUED_WORD = re.compile(r"\{(square)?(degrees|inches)\}$")


class MathVision(Converter):
    """The form on the hub and the form in the repository."""

    name = "mathvision"
    hub_id = "MathLLMs/MathVision"
    split = "testmini"
    layouts = (("id", "question", "options", "image", "answer", "level", "subject"),)
    keeps_repeats = True

    def draft(self, row: Mapping[str, Any]) -> Draft:
        options = [text(option) for option in items(row["options"])]
        level, subject = text(row["level"]), text(row["subject"])
        return Draft(
            question=_one_mark(text(row["question"])),
            answer=plain_answer(_GLUED_WORD.sub(_unit, text(row["answer"]))),
            images=items(row.get("decoded_image") or row["image"]),
            id=text(row["id"]),
            answer_type="choice" if options else None,
            choices=None if _drawn(options) else options,
            task=subject,
            meta={"categories": {"level": level, "subject": subject}},
        )


def _one_mark(question: str) -> str:
    """The first mark as ours, the others left out: they are parts of the same picture."""
    before, *after = _MARK.split(question)
    kept = [part for part in after if part.strip()]
    return (before + IMAGE_MARK + "".join(kept)).rstrip() if after else question


def _unit(found: re.Match[str]) -> str:
    return rf"\text{{ {' '.join(filter(None, found.groups()))}}}"


def _drawn(options: Sequence[str]) -> bool:
    """Whether the options are in the picture and the texts only their letters."""
    letters = [chr(ord("A") + index) for index in range(len(options))]
    labels = [option.strip("().:$ ").upper() for option in options]
    return labels == letters or any(_MARK.search(option) for option in options)


if __name__ == "__main__":
    main(MathVision())
