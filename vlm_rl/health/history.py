"""The history of a run's metrics, in bounded memory: how each began, and how it is now."""

from collections.abc import Mapping
from math import isfinite, sqrt
from statistics import fmean, median, pvariance
from typing import Any, NamedTuple

KEPT = 50
"""Values kept of the beginning of a metric, and of its end."""


class Change(NamedTuple):
    """A metric at the start of a run and now: means over equally many values."""

    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


class _Values:
    """What is kept of one metric."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.last: list[float] = []
        self.count = 0
        self.low = self.high = 0.0
        self.row = 0

    def add(self, value: float, row: int) -> None:
        self.row = row
        self.low = min(self.low, value) if self.count else value
        self.high = max(self.high, value) if self.count else value
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(value)
        self.last.append(value)
        del self.last[:-KEPT]


class History:
    """The metrics of a run so far. Rows of steps and of validations are added alike."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Values] = {}
        self._rows = 0

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add one row. Left out are values that are not finite, and parts of parts (`a/b/c`)."""
        self._rows += 1
        for name, value in metrics.items():
            if name.count("/") == 1 and isfinite(value):
                self._metrics.setdefault(name, _Values()).add(float(value), self._rows)

    def names(self, prefix: str) -> list[str]:
        """Return the metrics whose name begins with `prefix`, sorted."""
        return sorted(name for name in self._metrics if name.startswith(prefix))

    def count(self, name: str) -> int:
        """Return how many values there were of a metric."""
        return self._of(name).count

    def is_new(self, name: str) -> bool:
        """Whether the row added last has this metric."""
        return self._of(name).row == self._rows

    def first(self, name: str, number: int) -> list[float]:
        """Return the first values, at most `number` and 50."""
        return self._of(name).first[:number]

    def last(self, name: str, number: int) -> list[float]:
        """Return the last values, at most `number` and 50."""
        return self._of(name).last[-number:]

    def mean(self, name: str, number: int) -> float | None:
        """Return the mean of the last `number` values; None while there are fewer."""
        values = self.last(name, number)
        return fmean(values) if len(values) == number else None

    def change(self, name: str, number: int) -> Change | None:
        """Return the mean of the first and of the last `number` values; None if they overlap."""
        if self.count(name) < 2 * number:
            return None
        return Change(fmean(self.first(name, number)), fmean(self.last(name, number)))

    def medians(self, name: str, number: int) -> Change | None:
        """Return what `change` does with medians, which an interrupted step does not move."""
        if self.count(name) < 2 * number:
            return None
        return Change(median(self.first(name, number)), median(self.last(name, number)))

    def has_risen(self, name: str, number: int, deviations: float = 4.0) -> bool:
        """Whether a mean has risen by `deviations` standard errors of the difference."""
        change = self.change(name, number)
        if change is None:
            return False
        spread = pvariance(self.first(name, number)) + pvariance(self.last(name, number))
        return change.gain > max(deviations * sqrt(spread / number), 1e-6)

    def is_constant(self, name: str) -> bool:
        """Whether all values of the whole run are the same, up to rounding."""
        of = self._of(name)
        return of.count > 0 and of.high - of.low <= 1e-9 * max(1.0, abs(of.high))

    def state_dict(self) -> dict[str, Any]:
        metrics = {
            name: vars(of) | {"first": [*of.first], "last": [*of.last]}
            for name, of in self._metrics.items()
        }
        return {"rows": self._rows, "metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows = state["rows"]
        self._metrics = {}
        for name, kept in state["metrics"].items():
            self._metrics[name] = _Values()
            own = {"first": [*kept["first"]], "last": [*kept["last"]]}
            vars(self._metrics[name]).update(kept | own)

    def _of(self, name: str) -> _Values:
        return self._metrics.get(name) or _Values()
