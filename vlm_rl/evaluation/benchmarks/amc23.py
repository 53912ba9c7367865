"""AMC 2023: the 40 questions of AMC 12 A and B whose answer is an integer.

Columns as in `math-ai/amc23` (question, answer, id, url). They come from published uses; the card
was not seen. Others call the question problem. Some copies write the answers as 27.0.
"""

from collections.abc import Mapping
from typing import ClassVar

from vlm_rl.evaluation.benchmarks.exam import Exam


class AMC23(Exam):
    name = "amc23"
    hub_id = "math-ai/amc23"
    splits = ("test",)
    sizes: ClassVar[Mapping[str, int]] = {"test": 40}
    columns = ("problem", "answer")
    samples_per_problem = 32
    """avg@32, as is usual for AIME."""
    notes = "40 questions: a 95 % interval is up to 15.5 points to either side."
