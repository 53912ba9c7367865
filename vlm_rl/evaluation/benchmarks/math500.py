"""MATH-500: the questions of MATH (Hendrycks et al. 2021, https://arxiv.org/abs/2103.03874) that
Lightman et al. 2023 (https://arxiv.org/abs/2305.20050) kept for testing.

Columns as in `HuggingFaceH4/MATH-500`.
"""

from collections.abc import Mapping
from typing import ClassVar

from vlm_rl.evaluation.benchmarks.exam import Exam
from vlm_rl.records import AnswerType


class Math500(Exam):
    name = "math500"
    hub_id = "HuggingFaceH4/MATH-500"
    splits = ("test",)
    sizes: ClassVar[Mapping[str, int]] = {"test": 500}
    columns = ("problem", "answer", "subject", "level", "id")
    answer_type: ClassVar[AnswerType | None] = None  # LaTeX, numbers and words: by the look of each
    categories = ("subject", "level")
    samples_per_problem = 4
    """Fewer than for the small exams: 500 questions weigh more than samples."""
    notes = "A 95 % interval is up to 4.4 points to either side."
