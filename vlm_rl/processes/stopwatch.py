"""Seconds that processes had for their work, for limits that hold on a busy machine too.

A second does not count while a thread of theirs waits for a core, nor while this process, which
looks, is stopped itself: a suspended job is not a hang. Linux knows how long a thread has waited
(`schedstat`, https://docs.kernel.org/scheduler/sched-stats.html). Elsewhere every second counts.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple


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
        self._threads: dict[str, _Thread] = {}

    def look(self) -> float:
        """Return the seconds so far, at most half of `every_s` old."""
        now = time.monotonic()
        if (passed := now - self._looked) < self._every_s / 2:
            return self._seconds
        self._seconds += min(passed - self._waited(passed), 2 * self._every_s)
        self._looked = now
        return self._seconds

    def _waited(self, passed: float) -> float:
        """Return the longest that a thread has waited for a core since the last look.

        The kernel adds a wait when it ends. Until then, what a runnable thread has not run counts;
        if that was too much, the next look gives it back, and none counts twice.
        """
        threads = _threads(self._pids())
        waits = []
        for name, thread in threads.items():
            before = self._threads.get(name, thread)
            if thread.runnable:
                waited_s = before.waited_s + passed - (thread.ran_s - before.ran_s)
                threads[name] = thread._replace(waited_s=waited_s)
            waits.append(threads[name].waited_s - before.waited_s)
        self._threads = threads
        return max(waits, default=0.0)


class _Thread(NamedTuple):
    ran_s: float
    waited_s: float
    runnable: bool  # it runs or waits for a core, and is not the one that looks


def _threads(pids: Iterable[int]) -> dict[str, _Thread]:
    """Return what each thread of the processes and of all below them has done since it began."""
    threads: dict[str, _Thread] = {}
    looks = str(threading.get_native_id())
    todo = [str(pid) for pid in pids]
    while todo:
        tasks = f"/proc/{todo.pop()}/task"
        for name in _names(tasks):
            with suppress(OSError):  # it has ended
                ran, waited = _read(f"{tasks}/{name}/schedstat").split()[:2]
                state = _read(f"{tasks}/{name}/stat").rpartition(")")[2].split()[0]
                runnable = state == "R" and name != looks
                threads[name] = _Thread(float(ran) / 1e9, float(waited) / 1e9, runnable)
                todo += _read(f"{tasks}/{name}/children").split()
    return threads


def _names(folder: str) -> list[str]:
    with suppress(OSError):  # it has ended, or this is not Linux
        return os.listdir(folder)
    return []


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
