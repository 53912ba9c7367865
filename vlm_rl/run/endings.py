"""How the programs beside `vlm_rl.fit` end: one line, and a status of the table in docs/runs.md.

They keep what is complete as they go on, so a signal stops them wherever they are. A second one
ends the process at once, but for SIGHUP, which shell and kernel both send.
"""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from vlm_rl.disk.files import Unwritable
from vlm_rl.errors import joined
from vlm_rl.parts import is_out_of_memory
from vlm_rl.run import starting
from vlm_rl.show.screen import warn

ENGINE, MEMORY, UNWRITABLE, CTRL_C = 3, 71, 74, starting.CTRL_C
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class Stopped(BaseException):
    """A signal has stopped the program; not an Exception, so that no library catches it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


@dataclass
class Ending:
    """What the line says beside the reason: what an end now leaves, what takes less memory, and
    where the program writes."""

    left: str = "stopped, nothing was changed"
    lower: str = ""
    place: str = "a file"


@contextmanager
def one_line_endings(program: str) -> Iterator[Ending]:
    """Turn what ends a program early into its line and status. It may change the Ending on the way.

    Raises SystemExit.
    """
    ending = Ending()
    try:
        with _listening():
            yield ending
    except Stopped as stop:
        warn(f"{program}: {stop}: {ending.left}")
        raise SystemExit(CTRL_C if stop.signal == signal.SIGINT else 0) from None
    except Exception as error:
        status, reason = _status(error, ending)
        warn(f"{program}: {reason}; {ending.left}")
        raise SystemExit(status) from error


def cannot_write(error: BaseException, place: str) -> str | None:
    """Say so if a file, in `place` if it has no name, could not be written: the disk is full."""
    if isinstance(error, Unwritable):
        return joined(str(error))
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        return f"cannot write {error.filename or place}: {error.strerror}"
    return None


def _status(error: Exception, ending: Ending) -> tuple[int, str]:
    """Return status and reason. Raises `error` again if it is neither of memory nor of the disk."""
    if is_out_of_memory(error):
        reason = joined(str(error) or type(error).__name__)[:200]
        return MEMORY, f"out of memory ({reason}){ending.lower}"
    unwritable = cannot_write(error, ending.place)
    if unwritable is None:
        raise error
    return UNWRITABLE, unwritable


@contextmanager
def _listening() -> Iterator[None]:
    """Raise Stopped at the first signal inside; one that is ignored, as under nohup, stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread only
        return
    own = os.getpid()
    before = {number: signal.getsignal(number) for number in starting.SIGNALS}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def hear(number: int, frame: FrameType | None) -> None:
        for each in heard:
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
        if os.getpid() != own:  # a forked child
            os.kill(os.getpid(), number)
        raise Stopped(signal.Signals(number))

    for number in heard:
        signal.signal(number, hear)
    try:
        yield
    finally:
        starting.over()
        for number in heard:
            signal.signal(number, before[number])
