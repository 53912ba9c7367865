"""A busy machine on one core: one process gets a thirtieth of it, another takes the rest."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CORE = max(os.sched_getaffinity(0))
NICE = 15  # a thirtieth beside a process of normal priority, see sched_prio_to_weight in the kernel


def starve(pid: int = 0) -> None:
    """Let a process, or this thread, wait for the busy core twenty-nine seconds of thirty."""
    os.sched_setaffinity(pid, {CORE})
    os.setpriority(os.PRIO_PROCESS, pid, NICE)


@contextmanager
def busy_core() -> Iterator[None]:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not say how long a process has waited for a core")
    pin = f"import os; os.sched_setaffinity(0, {{{CORE}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", pin], stdout=subprocess.PIPE) as loop:
        assert loop.stdout
        loop.stdout.readline()
        try:
            yield
        finally:
            loop.kill()
