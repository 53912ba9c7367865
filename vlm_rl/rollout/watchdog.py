"""End a process that waits forever inside a library, with a line that says for what."""

import faulthandler
import os
import sys
import threading
import time
from typing import Any, ClassVar, Self

from vlm_rl.show.screen import warn

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: the same command resumes from the last checkpoint."""


class Watchdog:
    """While open, ends the process once nothing has called `touch` for `limit_s` seconds.

    A thread cannot be stopped from outside, so nothing less helps if the main thread hangs in
    foreign code. The stacks of all threads go to stderr first. If several watchdogs are open, one
    inside another, only the innermost counts: its limit was chosen for what is running now.
    """

    _open: ClassVar[list["Watchdog"]] = []

    def __init__(self, limit_s: float, what: str) -> None:
        self._limit_s = limit_s
        self._what = what
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self.touch()
        self._open.append(self)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed.set()
        self._open.remove(self)
        touch_all()  # to the outer ones, the time inside was not silence

    def touch(self) -> None:
        """Restart the clock: something has moved."""
        self._touched = time.monotonic()

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._touched

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            self._look()

    def _look(self) -> None:
        if self._is_due():
            faulthandler.dump_traceback(file=sys.stderr)
            self._end(f"{self._what} has been silent for {self._limit_s:g} s")

    def _is_due(self) -> bool:
        return self.silent_s > self._limit_s and self._open[-1:] == [self]

    def _end(self, reason: str) -> None:
        warn(
            f"{reason}: this process ends with status {EXIT_STATUS}; the same command resumes "
            "from the last checkpoint"
        )
        os._exit(EXIT_STATUS)


def touch_all() -> None:
    """Touch every open watchdog: called when something foreign is seen to live."""
    for watchdog in Watchdog._open:
        watchdog.touch()
