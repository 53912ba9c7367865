"""Run a program that ends when its parent does: `python die_with_parent.py PROGRAM [ARGUMENT ...]`.

The parent holds the other end of this process's standard input. That end closes even if the parent
is killed. Then the whole process group is killed, children of children included. This file is run
by its path and imports only the standard library, so that it starts at once. Its folder is then on
`sys.path`: no file beside it may have the name of a module of the standard library.
"""

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """Return the status of the program as a shell does: 128 + the signal if one ended it."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written; a buffered read would hold a lock at the end
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
