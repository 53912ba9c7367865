"""The interface of parts that keep a state from one minibatch to the next."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Stateful(ABC):
    """A part of an objective whose state goes into the checkpoint."""

    @property
    def observes(self) -> bool:
        """Whether it is told the metrics of updates, means over all their rows."""
        return True

    @abstractmethod
    def observe(self, metrics: Mapping[str, float]) -> None:
        """Learn from an applied update; `metrics` are means over all ranks."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
