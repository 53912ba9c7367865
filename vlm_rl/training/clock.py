"""What a run does right now, and how long each activity took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function

Listener = Callable[[str], None]


class Clock:
    """Times named activities: `with clock("rollout"): ...`. Listeners hear each name as it begins.

    An activity inside another one is heard, but its time is the outer one's: seconds add up to the
    time of the run.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.activity = "start"
        """The last that has begun."""
        self.failed_in: str | None = None
        """The one in which the first error was raised; what ends a run may begin others."""
        self._listeners: list[Listener] = []
        self._inside = False
        self._lap: dict[str, float] = {}

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def begin_lap(self) -> None:
        """Measure `lap_metrics` from now on."""
        self._lap = dict(self.seconds)

    @property
    def lap(self) -> dict[str, float]:
        """Return the seconds of each activity since the lap began."""
        spent = {name: total - self._lap.get(name, 0.0) for name, total in self.seconds.items()}
        return {name: value for name, value in spent.items() if value > 0}

    def lap_metrics(self) -> dict[str, float]:
        """Return them as `time/..._s`."""
        return {f"time/{name}_s": value for name, value in self.lap.items()}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.activity = name
        for listener in self._listeners:
            listener(name)
        if self._inside:
            with self._noticing_errors(name):
                yield
            return
        self._inside = True
        start = time.perf_counter()
        try:
            with self._noticing_errors(name), record_function(f"vlm_rl: {name}"):
                yield
                if torch.cuda.is_initialized():  # or the next activity pays for what is queued
                    torch.cuda.synchronize()
        finally:
            self._inside = False
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed

    @contextmanager
    def _noticing_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.failed_in = self.failed_in or name
            raise
