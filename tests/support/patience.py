"""How long tests wait: as long as something gets on, however busy the machine is.

A test hangs if its processes together use next to no CPU time for `QUIET_S` seconds in which none
of them waited for a core, and it spins if they use more than `CPU_S` seconds of it. Either ends it,
with the stacks of all its processes. So a test needs no limit on the clock: it starts processes and
waits for them. It calls `until` for what it has to poll, and `at_most_cpu_s` if it means speed.

As hooks of pytest (conftest.py) this holds for every setup, call and teardown.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil
import pytest

from vlm_rl.processes.stopwatch import Stopwatch

QUIET_S = 120.0
CPU_S = 1800.0
LOOK_S = 2.0
WORKING = 0.05
"""CPU seconds a second, of all processes together: less is polling and beating, not work."""

INTERRUPT = signal.SIGUSR2
"""Ends a wait of the main thread. The product uses the other signals, tests the alarm."""


class Stuck(AssertionError):
    """What a test waits for does not get on."""


class Progress:
    """Judges this process and all below it from `restart` on. Look at it every `look_s` seconds."""

    def __init__(self, quiet_s: float, cpu_s: float, look_s: float, *, own: bool) -> None:
        self._quiet_s, self._cpu_s, self._own = quiet_s, cpu_s, own
        self._quiet = Stopwatch(lambda: [os.getpid()], every_s=look_s)
        self.restart()

    def restart(self) -> None:
        self._began = self._marked = self._used()
        self._quiet.restart()

    def look(self) -> str | None:
        """Return what is wrong, None if nothing is."""
        used, quiet = self._used(), self._quiet.look()
        if used - self._began > self._cpu_s:
            return f"it spins: more than {self._cpu_s:g} s of CPU time"
        # an orphan that ends takes its seconds along, which is a movement too
        if not 0 <= used - self._marked <= WORKING * self._quiet_s:
            self._marked = used
            self._quiet.restart()
        elif quiet > self._quiet_s:
            return f"it hangs: nothing has moved for {self._quiet_s:g} s"
        return None

    def _used(self) -> float:
        if self._own:
            return cpu_s() - time.thread_time()  # what looking takes is nobody's progress
        return sum(_used_by(child) for child in descendants())


def cpu_s() -> float:
    """Return the CPU seconds of this process and all below it, also of those that have ended."""
    return sum(os.times()[:4]) + sum(_used_by(child) for child in descendants())


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _used_by(process: psutil.Process) -> float:
    with suppress(psutil.Error):  # it has ended
        return float(sum(process.cpu_times()[:4]))  # with the children that it waited for
    return 0.0


@contextmanager
def at_most_cpu_s(limit: float) -> Iterator[None]:
    """Fail if what is done inside takes more CPU time, in whichever process."""
    before = cpu_s()
    yield
    assert cpu_s() - before < limit


def until(condition: Callable[[], bool], every_s: float = 0.02) -> None:
    """Wait for a condition. Raises Stuck if the processes below this one stop getting on.

    This process does not count: its own polling would look like progress.
    """
    progress = Progress(QUIET_S, CPU_S, LOOK_S, own=False)
    looked = time.monotonic()
    while not condition():
        time.sleep(every_s)
        if time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            if wrong := progress.look():
                raise Stuck(wrong)


def runs(pid: int) -> bool:
    """Return whether a process runs; in a container nothing reaps orphans, which stay zombies."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Watcher:
    """A thread that looks after what the main thread does inside `over`."""

    def __init__(self, quiet_s: float, cpu_s: float) -> None:
        self._limits = quiet_s, cpu_s
        self._look_s = min(LOOK_S, quiet_s / 4)
        self._lock = threading.Lock()
        self._inside: float | None = None
        self._wrong: str | None = None
        threading.Thread(target=self._watch, name="patience", daemon=True).start()

    @contextmanager
    def over(self) -> Iterator[None]:
        """Raise Stuck in here if it does not get on. Its processes are ended before."""
        previous = signal.signal(INTERRUPT, self._raise)
        self._wrong, self._inside = None, time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            yield
        finally:
            with self._lock:
                self._inside = None
            signal.signal(INTERRUPT, previous)
        if self._wrong:  # it went on once its processes were ended
            raise Stuck(self._wrong)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        raise Stuck(self._wrong)

    def _watch(self) -> None:
        progress, seen = Progress(*self._limits, self._look_s, own=True), self._inside
        while True:
            time.sleep(self._look_s)
            if seen != self._inside:
                seen = self._inside
                progress.restart()
            elif seen is not None and (wrong := progress.look()):
                self._end(seen, wrong)
                progress.restart()

    def _end(self, began: float, wrong: str) -> None:
        """End what has been started inside, saying where it is; then interrupt the main thread."""
        self._wrong = wrong
        faulthandler.dump_traceback(file=sys.__stderr__)
        own = [child for child in descendants() if _started(child) >= began]
        for ending in (signal.SIGABRT, signal.SIGKILL):  # the first with its stacks, see conftest
            for child in own:
                with suppress(psutil.Error):
                    child.send_signal(ending)
            own = self._left_of(own)
        time.sleep(self._look_s)  # the main thread may go on now, and say more than we can
        with self._lock:
            if self._inside == began:
                signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPT)

    def _left_of(self, processes: list[psutil.Process]) -> list[psutil.Process]:
        """Return those that do not end soon. Takes no status from whoever waits for it."""
        until = time.monotonic() + self._look_s
        while (left := [one for one in processes if runs(one.pid)]) and time.monotonic() < until:
            time.sleep(0.01)
        return left


def _started(process: psutil.Process) -> float:
    """Return the seconds since the machine's start at which it began; psutil's may be one off."""
    with suppress(OSError):  # it has ended
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[19]) + 1) / os.sysconf("SC_CLK_TCK")
    return 0.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("quiet_s", "a test without progress for so long hangs", default=str(QUIET_S))
    parser.addini("cpu_s", "a test that uses more CPU time spins", default=str(CPU_S))


WATCHER = pytest.StashKey[Watcher]()


def pytest_configure(config: pytest.Config) -> None:
    limits = (float(config.getini(name)) for name in ("quiet_s", "cpu_s"))
    config.stash[WATCHER] = Watcher(*limits)


def _watched(item: pytest.Item) -> Generator[None, object, object]:
    with item.config.stash[WATCHER].over():
        return (yield)


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = pytest.hookimpl(
    wrapper=True
)(_watched)
