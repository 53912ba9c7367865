"""The checking process: `python -m vlm_rl.verification.checker TIMEOUT_S MEMORY_MB`.

It reads one question a line, and answers each with one line: the decision and its rule. It ends
when its input closes, when an exception escapes, and when a question has used up its memory or
seconds. The kernel counts both, and ends the process whatever it is doing, even if the trainer is
gone. The seconds are CPU time, so that an honest answer does not time out on a crowded machine.
"""

import json
import os
import resource
import signal
import sys

from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import decide

READY = "ready"
TIMED_OUT = signal.SIGPROF
"""The signal that ends a process whose question took too long."""


def main(timeout_s: float, memory_mb: int) -> None:
    """Answer questions from standard input until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # launchers and terminals send these to every process; the trainer may finish its step first,
    # and then closes this process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(TIMED_OUT, signal.SIG_DFL)  # ignored and blocked signals are inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {TIMED_OUT})
    decide(Gold(r"\sqrt{2} cm", "number_unit"), "1 m", numeric=True)  # imports outside any limit
    _reply(READY)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        fields, prediction = json.loads(line)
        _reply(json.dumps(decide(Gold.from_fields(fields), prediction, numeric=True)))
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reply(line: str) -> None:
    # one write, which a pipe delivers whole; print makes two if output is unbuffered
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
