"""AIME 2025, I and II: 30 questions, answers 0 to 999.

Columns as in `math-ai/aime25` (problem, answer, id). They come from published uses; the card was
not seen.
"""

from collections.abc import Mapping
from typing import ClassVar

from vlm_rl.evaluation.benchmarks.exam import Exam


class AIME25(Exam):
    name = "aime25"
    hub_id = "math-ai/aime25"
    splits = ("test",)
    sizes: ClassVar[Mapping[str, int]] = {"test": 30}
    columns = ("problem", "answer")
    samples_per_problem = 32
    """avg@32, as is usual for AIME 2024."""
    notes = "30 questions: a 95 % interval is up to 17.9 points to either side."
