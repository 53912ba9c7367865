"""How long the vision tower takes, within whatever activity runs it."""

import time
from typing import Any

import torch
from torch import nn


class TowerTime:
    """Adds up the seconds of the forwards of a policy's vision tower, and of copies of it."""

    def __init__(self, tower: nn.Module) -> None:
        self._seconds = 0.0
        self._began: Any = None
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        # plain functions: a copy of the tower, as a reference has one, keeps them
        tower.register_forward_pre_hook(lambda *_: self._begin())
        tower.register_forward_hook(lambda *_: self._end())

    def _begin(self) -> None:
        self._began = _now()

    def _end(self) -> None:
        now = _now()
        if isinstance(now, float):
            self._seconds += now - self._began
        else:  # read once the device is done
            self._spans.append((self._began, now))

    def take(self) -> float:
        """Return the seconds since this was called last."""
        if self._spans:
            torch.cuda.synchronize()
        seconds = self._seconds
        seconds += sum(float(begin.elapsed_time(end)) for begin, end in self._spans) / 1000
        self._seconds, self._spans = 0.0, []
        return seconds


def _now() -> Any:
    """Return the time, on a GPU an event in its queue."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
