"""Loops that run one at a time in one process and hand over to each other."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any


class Turns:
    """Gives the process to one loop at a time, and measures its CPU time until it hands over.

    `seconds` has the laps of each loop by name. Nothing starts before every loop has come to its
    first `end_lap`. One that has done `num_laps` waits until all have.
    """

    def __init__(self, names: Sequence[str], num_laps: int) -> None:
        self.num_laps = num_laps
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self._names = list(names)
        self._here: set[str] = set()
        self._turn = 0
        self._since = 0.0
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def end_lap(self, name: str) -> None:
        """Hand over, unless this is where the loop begins, and wait for the next turn."""
        with self._changed:
            if name not in self._here:
                self._here.add(name)
            elif len(self.seconds[name]) < self.num_laps:
                self.seconds[name].append(time.process_time() - self._since)
                self._turn += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failure or self._done or self._is_turn(name))
            if self._failure:
                raise RuntimeError("another loop has failed") from self._failure
            self._since = time.process_time()

    def wait_for_arrival(self, name: str) -> None:
        """Wait until a loop in another thread is at its first `end_lap`, or one has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or name in self._here)

    @property
    def _done(self) -> bool:
        return all(len(laps) == self.num_laps for laps in self.seconds.values())

    def _is_turn(self, name: str) -> bool:
        all_here = len(self._here) == len(self._names)
        return all_here and self._names[self._turn % len(self._names)] == name

    def carry_out(self, loop: Callable[[], Any]) -> None:
        """Run a loop; if it fails, let no other wait for it."""
        try:
            loop()
        except BaseException as error:  # whatever it is, others would wait for ever
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def raise_failure(self) -> None:
        """Raise what has ended the first loop that failed."""
        if self._failure:
            raise self._failure
