"""Does mean length follow the push? Predictions beside measured changes, over steps or runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from scipy.stats import pearsonr

LENGTH = "completion/length_tokens"
PUSHES = ("length/push", "length/push_sum", "length/push_mean")
BLOCK_STEPS = 5
"""Steps have different problems, so that their mean lengths differ by chance; a block averages."""

PushPoint = tuple[float, float]
"""A predicted push and the measured change of mean length in tokens."""


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of `num_points` points with its 95 % interval, by Fisher's z."""

    r: float
    low: float
    high: float
    num_points: int

    @classmethod
    def of(cls, points: Sequence[PushPoint]) -> "Correlation | None":
        """Return None for fewer than 4 points, which have no interval, or if a side is constant."""
        if len(points) < 4 or any(len(set(side)) == 1 for side in zip(*points, strict=True)):
            return None
        found = pearsonr(*zip(*points, strict=True))
        interval = found.confidence_interval(0.95)
        return cls(float(found.statistic), float(interval.low), float(interval.high), len(points))

    def text(self) -> str:
        return f"r {self.r:+.2f} [{self.low:+.2f}, {self.high:+.2f}], n {self.num_points}"


def course_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what of a step's metrics the course needs; an absent push is 0: nothing was pushed."""
    return {LENGTH: metrics.get(LENGTH, math.nan)} | {
        name: metrics.get(name, 0.0) for name in PUSHES
    }


def changes(
    course: Sequence[Mapping[str, float]], name: str, block_steps: int = BLOCK_STEPS
) -> list[PushPoint]:
    """Return the mean push of each block of steps and the change of mean length from it to the
    next. A rest that fills no block is left out."""
    count = len(course) // block_steps
    blocks = [course[i * block_steps : (i + 1) * block_steps] for i in range(count)]
    lengths = [mean(step[LENGTH] for step in block) for block in blocks]
    pushes = [mean(step[name] for step in block) for block in blocks]
    points = zip(pushes, lengths, lengths[1:], strict=False)
    return [(push, after - before) for push, before, after in points]
