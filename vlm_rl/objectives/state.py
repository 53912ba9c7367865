"""What remembers something from one minibatch to the next."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Stateful(ABC):
    """A part of an objective whose state goes into the checkpoint."""

    @abstractmethod
    def observe(self, metrics: Mapping[str, float]) -> None:
        """Learn from an update that was applied: its metrics, means over all processes."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
