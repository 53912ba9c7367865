"""A signal before a program begins, or once it has ended: one line and a status, not a traceback.

Importing takes seconds, and is when a mistyped command is stopped. Nothing has been read or written
yet, so the process ends at once. While a program works, it has its own handlers. Leaving takes a
moment too: by then all is written and said, so the first signal changes nothing, and a second ends
what hangs. This file needs the standard library only, and is installed before everything else.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

from vlm_rl.show.started import program

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
CTRL_C = 130

_DEAF = ("data", "audit", "init", "recipes", "completion")
"""Commands without handlers of their own; one here would stay, and its line be wrong by then."""

_over = False


def listen() -> None:
    """Handle signals until the program begins, if this process was started as a program.

    A signal that is ignored, as SIGHUP is under nohup, stays so.
    """
    _keep_standard_numbers()
    started = program()
    if started is None or started.name in _DEAF:
        return
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _hear)


def _keep_standard_numbers() -> None:
    """Open nothing in place of a standard stream that was closed (`>&-`): the next file of the run
    would get its number, and what is printed to that number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def over() -> None:
    """Say that the program has ended, and only its process is left."""
    global _over
    _over = True


def _hear(number: int, frame: FrameType | None) -> Any:
    name = signal.Signals(number).name
    if _over:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        return
    started = program()
    assert started is not None, "without a program `listen` leaves signals as they are"
    line = f"vlm_rl.{started.name}: {name} in the start: stopped before it began"
    line += ", nothing was changed\n"
    os.write(2, line.encode())
    os._exit(CTRL_C if number == signal.SIGINT else 0)
