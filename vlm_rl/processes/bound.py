"""Become a program that ends with its parent: `python bound.py PARENT_PID PROGRAM [ARGUMENT ...]`.

The process stays the same, so a signal to it reaches the program. The kernel kills it even if the
parent is killed (Linux; elsewhere it would go on). This file is run by its path and imports only
the standard library, so that it starts at once.
"""

import contextlib
import ctypes
import os
import signal
import sys

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(parent: int, command: list[str]) -> None:
    """Replace this process by the program."""
    with contextlib.suppress(AttributeError):  # a system without prctl
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent has ended meanwhile")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
