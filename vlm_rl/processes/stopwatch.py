"""Seconds that processes had for their work, for limits that hold on a busy machine too.

A second does not count while a thread of theirs waits for a core, nor while this process, which
looks, is stopped itself: a suspended job is not a hang. Linux knows how long a thread has waited
(`schedstat`, https://docs.kernel.org/scheduler/sched-stats.html). Elsewhere every second counts.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress


class Stopwatch:
    """Counts from `restart` on, for the processes that `pids` names and all below them.

    Look at it about every `every_s` seconds: of a longer pause only twice that counts.
    """

    def __init__(self, pids: Callable[[], Iterable[int]], *, every_s: float = 1.0) -> None:
        self._pids = pids
        self._every_s = every_s
        self.restart()

    def restart(self) -> None:
        """Begin at 0. Reads nothing, so that it may be called for every sign of life."""
        self._seconds = 0.0
        self._looked = time.monotonic()
        self._waits: dict[str, float] | None = None

    def look(self) -> float:
        """Return the seconds so far, at most half of `every_s` old."""
        now = time.monotonic()
        if (passed := now - self._looked) < self._every_s / 2:
            return self._seconds
        waits, before = _waits(self._pids()), self._waits
        waited = 0.0
        if before is not None:
            # a wait shows when it has ended, so that it may be longer than the time since the look
            waited = max((s - before.get(name, 0.0) for name, s in waits.items()), default=0.0)
        self._seconds += min(passed - waited, 2 * self._every_s)
        self._looked, self._waits = now, waits
        return self._seconds


def _waits(pids: Iterable[int]) -> dict[str, float]:
    """Return the seconds for which each thread has waited for a core since it began."""
    waits: dict[str, float] = {}
    todo = [str(pid) for pid in pids]
    while todo:
        tasks = f"/proc/{todo.pop()}/task"
        for thread in _names(tasks):
            with suppress(OSError):  # it has ended
                waits[thread] = float(_read(f"{tasks}/{thread}/schedstat")[1]) / 1e9
                todo += _read(f"{tasks}/{thread}/children")
    return waits


def _names(folder: str) -> list[str]:
    with suppress(OSError):  # it has ended, or this is not Linux
        return os.listdir(folder)
    return []


def _read(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()
