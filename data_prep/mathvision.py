"""MathVision: competition mathematics with images, a benchmark; 3,040 test, 304 testmini rows.

    python -m data_prep.mathvision --output data/mathvision --split testmini

Schema (the card of MathLLMs/MathVision): `id`, `question`, `options`, `image` (a path),
`decoded_image`, `answer`, `solution`, `level`, `subject`. The authors' repository has the same in
`<split>.jsonl`, without `decoded_image`, beside an `images` folder: name that folder as the source.
Licence: MIT.

Flaws handled: several marks `<image1> <image2>` for one merged image (the first mark is kept).
Types, choices and golds (`'11 '`, `'\\x0crac{36}{13}'`, `69{degrees}`) are those of the benchmark
of this name, so that training and evaluation check a policy alike. Repeats are kept.
"""

import re
from collections.abc import Mapping
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import images_of, problem_of
from vlm_rl.records import IMAGE_MARK

_BENCHMARK = BENCHMARKS["mathvision"]
_MARK = re.compile(r"<image\s*\d*>")


class MathVision(Converter):
    """The form on the hub and the form in the repository."""

    name = _BENCHMARK.name
    hub_id = _BENCHMARK.hub_id
    split = "testmini"
    layouts = (("id", "question", "options", "image", "answer", "level", "subject"),)
    keeps_repeats = True

    def draft(self, row: Mapping[str, Any]) -> Draft:
        problem = problem_of(_BENCHMARK, row)
        categories = problem.meta["categories"]
        return Draft(
            question=_one_mark(problem.question.strip()),
            answer=problem.answer,
            images=images_of(_BENCHMARK, row),
            id=problem.uid,
            answer_type=problem.answer_type,
            choices=problem.choices,
            unit=problem.unit,
            task=categories["subject"],
            meta={"categories": {name: categories[name] for name in ("level", "subject")}},
        )


def _one_mark(question: str) -> str:
    """Keep the first mark, written as ours; the others are parts of the same image."""
    before, *after = _MARK.split(question)
    kept = [part for part in after if part.strip()]
    return (before + IMAGE_MARK + "".join(kept)).rstrip() if after else question


if __name__ == "__main__":
    main(MathVision())
