"""AIME 2024, I and II: 30 questions, answers 0 to 999.

Columns as on the card of `HuggingFaceH4/aime_2024`: id, problem, solution, answer, url, year. Its
only split is called train.
"""

from collections.abc import Mapping
from typing import ClassVar

from vlm_rl.evaluation.benchmarks.exam import Exam


class AIME24(Exam):
    name = "aime24"
    hub_id = "HuggingFaceH4/aime_2024"
    splits = ("train",)
    sizes: ClassVar[Mapping[str, int]] = {"train": 30}
    columns = ("id", "problem", "answer")
    samples_per_problem = 32
    """avg@32, as DAPO reports (https://arxiv.org/abs/2503.14476)."""
    notes = "30 questions: a 95 % interval is up to 17.9 points to either side."
