"""Runs a program that ends when its parent does: `python tether.py PROGRAM [ARGUMENT ...]`.

The parent holds the other end of this process's standard input. When that closes, which it also
does when the parent is killed, the whole process group is killed, children of children included.
Started as a file, and with the standard library alone, so that it costs nothing.
"""

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """Status of the program, as a shell gives it: 128 + the signal that ended it."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # nothing is ever written
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
