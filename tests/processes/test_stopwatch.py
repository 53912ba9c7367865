"""Seconds count if the processes could have used them.

Broken on purpose, each seen red: waits that count -> starved; those that have not ended -> has not
ended; children left out -> its child; pauses that count -> nobody looked; no second that counts ->
does nothing.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.starving import busy_core, starve
from vlm_rl.processes.stopwatch import Stopwatch

SPIN = "while True: pass"
SLEEP = "import time; time.sleep(1000)"
CHILD = f"import os\nif os.fork(): os.wait()\n{SPIN}"
LOOK_S = 0.1


@contextmanager
def running(program: str, *, starved: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    start = starve if starved else None
    # a group and no session: the kernel shares cores between sessions first
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, preexec_fn=start, process_group=0) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def share(pid: int) -> float:
    """Return how much of two seconds on the clock counts."""
    watch = Stopwatch(lambda: [pid], every_s=LOOK_S)
    time.sleep(LOOK_S)
    first, began = watch.look(), time.monotonic()
    while time.monotonic() < began + 2.0:
        time.sleep(LOOK_S)
        seconds = watch.look()
    return (seconds - first) / (time.monotonic() - began)


@pytest.mark.parametrize("program", [SPIN, CHILD], ids=["itself", "its child"])
def test_seconds_of_a_starved_process_do_not_count(program: str) -> None:
    with busy_core(), running(program, starved=True) as process:
        assert share(process.pid) < 0.4


def test_wait_that_has_not_ended_does_not_count() -> None:
    with busy_core(), running(SPIN, starved=True) as process:
        watch = Stopwatch(lambda: [process.pid], every_s=LOOK_S)
        time.sleep(LOOK_S)
        assert watch.look() < LOOK_S / 2


@pytest.mark.parametrize("number", [signal.SIGCONT, signal.SIGSTOP], ids=["asleep", "stopped"])
def test_seconds_of_a_process_that_does_nothing_count(number: signal.Signals) -> None:
    with running(SLEEP) as process:
        os.kill(process.pid, number)
        assert share(process.pid) > 0.6


def test_time_in_which_nobody_looked_counts_twice_the_pause_at_most() -> None:
    watch = Stopwatch(lambda: [], every_s=LOOK_S)
    time.sleep(1.0)
    assert watch.look() == 2 * LOOK_S


def test_processes_that_have_ended_and_other_systems_count_every_second() -> None:
    watch = Stopwatch(lambda: [2**22 + 1], every_s=LOOK_S)
    time.sleep(LOOK_S)
    assert watch.look() >= LOOK_S
    watch.restart()
    assert watch.look() == 0
