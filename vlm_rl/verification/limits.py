"""What bounds a process that works on text of unknown origin: memory, CPU time, no core file.

The kernel counts both and ends the process, whatever it is doing, even if its parent is gone. The
seconds are CPU time, so that honest work does not time out on a crowded machine.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

TIMED_OUT = signal.SIGPROF
"""The signal that ends a process which took too long."""

CLOCK_FACTOR = 30.0
"""A process that gets less than a thirtieth of a core is given up by whoever waits for it."""


def limit_this_process(memory_mb: int) -> None:
    """Bound the memory of this process, and leave signals for all processes to its parent."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # launchers and terminals send these to every process; the trainer may finish its step first,
    # and then closes this process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(TIMED_OUT, signal.SIG_DFL)  # ignored and blocked signals are inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {TIMED_OUT})


@contextmanager
def within(cpu_s: float) -> Iterator[None]:
    """End this process by TIMED_OUT if what is inside takes more than `cpu_s` of CPU time."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
