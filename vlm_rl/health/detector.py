"""The interface of detectors, and how accuracy changes, which several of them read."""

from abc import ABC, abstractmethod
from typing import ClassVar

from vlm_rl.health.history import KEPT, Change, History

ACCURACY = "reward/accuracy"


class Detector(ABC):
    """One thing that goes wrong. It has no state: what it finds is a function of the history."""

    advice: ClassVar[str] = ""
    """What to do about it, for a person."""

    @abstractmethod
    def find(self, history: History) -> str | None:
        """Return what is wrong, with the numbers that show it, or None."""


def accuracy_change(history: History, steps: int) -> Change | None:
    """Return the change of training accuracy, or of the reward if no term gives verdicts."""
    return history.change(ACCURACY if history.count(ACCURACY) else "reward/mean", steps)


def check_share(detector: Detector, **values: float) -> None:
    """Refuse thresholds that are no share. Raises ValueError."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{type(detector).__name__}.{name} must be in (0, 1), got {value}")


def check_above(detector: Detector, limit: float, **values: float) -> None:
    """Refuse thresholds that are not above `limit`. Raises ValueError."""
    for name, value in values.items():
        if not value > limit:
            kind = type(detector).__name__
            raise ValueError(f"{kind}.{name} must be above {limit:g}, got {value}")


def check_window(detector: Detector, steps: int) -> None:
    """Refuse a window that the history does not keep. Raises ValueError."""
    if not 2 <= steps <= KEPT:
        raise ValueError(f"{type(detector).__name__}.steps must be in 2 to {KEPT}, got {steps}")
