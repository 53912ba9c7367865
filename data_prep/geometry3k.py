"""Geometry3K: school geometry with drawings; 2,101 train, 300 validation, 601 test problems.

    python -m data_prep.geometry3k --output data/geometry3k --split train
    python -m data_prep.geometry3k --output data/geometry3k_choices --choices

Schema (the card of hiyouga/geometry3k): `images`, `problem` (begins with `<image>`), `answer` (a
value); a newer revision adds `id`, `choices` and `ground_truth`. Licence: MIT; the set is
Inter-GPS's.

Flaws handled: `ground_truth` is a letter and clashes with the value in `answer`, so it is not
read; `choices` belong to the letter and are not shown with the free question, unless `--choices`
asks for the letter. Spaces in LaTeX (`2 \\sqrt { 221 }`). Not handled: many golds are rounded
decimals, which are compared as they stand.
"""

from collections.abc import Mapping
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, items, text
from data_prep.golds import plain_answer


class Geometry3K(Converter):
    """The free-form question."""

    name = "geometry3k"
    hub_id = "hiyouga/geometry3k"
    layouts = (("images", "problem", "answer"),)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return Draft(
            question=text(row["problem"]),
            answer=plain_answer(text(row["answer"])),
            images=items(row["images"]),
            id=text(row.get("id")) or None,
            task="geometry",
        )


class Geometry3KChoices(Converter):
    """Ask for the letter of one of the set's choices."""

    name = Geometry3K.name
    hub_id = Geometry3K.hub_id
    flag = "choices"
    layouts = (("images", "problem", "choices", "ground_truth"),)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return Draft(
            question=text(row["problem"]),
            answer=text(row["ground_truth"]),
            images=items(row["images"]),
            id=text(row.get("id")) or None,
            answer_type="choice",
            choices=[plain_answer(text(choice)) for choice in items(row["choices"])],
            task="geometry",
        )


if __name__ == "__main__":
    main(Geometry3K(), Geometry3KChoices())
