"""Ends a process that waits for ever inside a library, with a line that says for what."""

import faulthandler
import os
import sys
import threading
import time
from typing import Any, Self

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: started again, the run goes on from its last checkpoint."""


class Watchdog:
    """While open, ends the process once nothing has called `touch` for `limit_s` seconds.

    A thread can not be stopped from outside, so that nothing less helps where the main thread hangs
    in foreign code. The stacks of all threads go to stderr before.
    """

    def __init__(self, limit_s: float, what: str) -> None:
        self._limit_s = limit_s
        self._what = what
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self.touch()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed.set()

    def touch(self) -> None:
        """Something has moved."""
        self._touched = time.monotonic()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            if time.monotonic() - self._touched > self._limit_s:
                faulthandler.dump_traceback(file=sys.stderr)
                print(
                    f"{self._what} has been silent for {self._limit_s:g} s: this process ends with "
                    f"status {EXIT_STATUS}; the same command goes on from the last checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_STATUS)
