"""A signal while a program still imports: one line and a status, not a traceback of an import.

Importing takes seconds, and is when a mistyped command is stopped. Nothing has been read or written
yet, so the process ends at once. This file imports the standard library only, and is installed
before everything else.
"""

import os
import re
import signal
import sys
import threading
from itertools import pairwise
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
CTRL_C = 130


def listen() -> None:
    """Handle signals until the program begins, if this process was started by `-m vlm_rl...`.

    A signal that is ignored, as SIGHUP is under nohup, stays so.
    """
    if _program() is None or threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _hear)


def _program() -> str | None:
    """Return what follows `-m`, if that is an entry point; the checkers of answers are none."""
    words = sys.orig_argv
    names = [after for word, after in pairwise(words) if word == "-m"]
    return next(filter(re.compile(r"vlm_rl\.\w+").fullmatch, names), None)


def _hear(number: int, frame: FrameType | None) -> Any:
    name = signal.Signals(number).name
    if _is_importing(frame):
        line = f"{_program()}: {name} in the start: stopped before it began, nothing was changed\n"
        os.write(2, line.encode())
        os._exit(CTRL_C if number == signal.SIGINT else 0)
    if number == signal.SIGINT:
        return signal.default_int_handler(number, frame)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return None


def _is_importing(frame: FrameType | None) -> bool:
    """Whether the program's own file is not there yet, or is at one of its imports."""
    inner = None
    while frame is not None:
        if frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name == "<module>":
            return inner is None or "importlib" in inner.f_code.co_filename
        inner, frame = frame, frame.f_back
    return True
