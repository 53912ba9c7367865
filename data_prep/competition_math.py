"""MATH: competition mathematics with worked solutions, text only; 7,500 train, 5,000 test problems.

    python -m data_prep.competition_math --output data/competition_math

Schema (the card of EleutherAI/hendrycks_math): `problem`, `level`, `type`, `solution`, in seven
parts by subject, all of which are read; copies that call `type` `subject` are read as well.
Licence: MIT.

Flaws handled: the answer is the last box of the solution; a solution without a box is left out.
MATH-500 is part of the test split: name it under `--exclude-benchmarks` before training on that.
"""

from collections.abc import Mapping
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, text
from data_prep.golds import boxed_answer


class CompetitionMath(Converter):
    """The published form."""

    name = "competition_math"
    hub_id = "EleutherAI/hendrycks_math"
    layouts = (
        ("problem", "solution", "level", "type"),
        ("problem", "solution", "level", "subject"),
    )
    configs = (
        "algebra",
        "counting_and_probability",
        "geometry",
        "intermediate_algebra",
        "number_theory",
        "prealgebra",
        "precalculus",
    )

    def draft(self, row: Mapping[str, Any]) -> Draft:
        return Draft(
            question=text(row["problem"]),
            answer=boxed_answer(text(row["solution"])),
            task=text(row["type"] if "type" in row else row["subject"]),
            meta={"level": text(row["level"])},
        )


if __name__ == "__main__":
    main(CompetitionMath())
