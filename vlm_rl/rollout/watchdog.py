"""End a process that waits forever inside a library, with a line that says for what."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from vlm_rl.processes.stopwatch import Stopwatch
from vlm_rl.show.screen import warn

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: the same command resumes from the last checkpoint."""


class Watchdog:
    """While open, ends the process once nothing has called `touch` for `limit_s` seconds.

    Seconds for which this process, or one that it waits for, waits for a core do not count, nor
    those of a suspended job: neither is a hang.

    A thread cannot be stopped from outside, so nothing less helps if the main thread hangs in
    foreign code. The stacks of all threads go to stderr first. If several watchdogs are open, one
    inside another, only the innermost counts: its limit was chosen for what is running now.
    """

    _open: ClassVar[list["Watchdog"]] = []

    def __init__(self, limit_s: float, what: str) -> None:
        self._limit_s = limit_s
        self._what = what
        self._look_s = min(1.0, limit_s / 4)
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self.touch()
        self._opened_by = threading.get_ident()
        self._heard = self._touched
        self._silence = Stopwatch(self._waited_for, every_s=self._look_s)
        self._open.append(self)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed.set()
        touch_all()  # to the outer ones, the time inside was not silence
        self._open.remove(self)

    def touch(self) -> None:
        """Restart the clock: something has moved."""
        self._touched = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds on the clock since the last touch."""
        return time.monotonic() - self._touched

    def _watch(self) -> None:
        while not self._closed.wait(self._look_s):
            if self._heard != self._touched:
                self._heard = self._touched
                self._silence.restart()
            self._look()

    def _look(self) -> None:
        if self._is_due():
            faulthandler.dump_traceback(file=sys.stderr)
            self._end(f"{self._what} has been silent for {self._limit_s:g} s")

    def _is_due(self) -> bool:
        due = self._silence.look() > self._limit_s and self._open[-1:] == [self]
        return due and self._heard == self._touched  # not when an inner one closes just now

    def _waited_for(self) -> Iterable[int]:
        """Return the processes on whose work, and that of all below them, `touch` depends."""
        return [os.getpid()]

    def _end(self, reason: str) -> None:
        warn(
            f"{reason}: this process ends with status {EXIT_STATUS}; the same command resumes "
            "from the last checkpoint"
        )
        os._exit(EXIT_STATUS)


def touch_all() -> None:
    """Touch every watchdog that this thread has opened: called when something foreign is seen to
    live. That another thread moves says nothing of this one."""
    for watchdog in Watchdog._open:
        if watchdog._opened_by == threading.get_ident():
            watchdog.touch()
