"""What a run is doing right now, and how long each stage took."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Listener = Callable[[str], None]


class Stages:
    """Times named stages: `with stages("rollout"): ...`. Listeners hear each name as it begins.

    A stage inside another one is heard, but its time is the outer one's: seconds add up to the
    time of the run.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._listeners: list[Listener] = []
        self._inside = False

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def metrics_since(self, before: Mapping[str, float]) -> dict[str, float]:
        """`time/..._s` of each stage since the seconds were `before`."""
        spent = {name: total - before.get(name, 0.0) for name, total in self.seconds.items()}
        return {f"time/{name}_s": value for name, value in spent.items() if value > 0}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        for listener in self._listeners:
            listener(name)
        if self._inside:
            yield
            return
        self._inside = True
        start = time.perf_counter()
        try:
            yield
        finally:
            self._inside = False
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
