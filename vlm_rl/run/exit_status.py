"""How a run ends other than with its last step: one line and an exit status.

0    SIGTERM or SIGUSR1: saved; the same command resumes
1    another rank has failed or is gone, or another start owns the folder by now; also
     any other error, with its traceback
2    the configuration or its data are wrong, or another run owns the folder; nothing was trained
3    the rollout engine gave up: saved
4    a part of one's own (reward, advantage, filter, objective) failed: saved, unless in an update
74   the run's folder cannot be written, usually because the disk is full (EX_IOERR)
75   a hang (EX_TEMPFAIL)
130  Ctrl-C: saved

After 1, 3, 4, 74, 75 and 130 the same command resumes from the last complete checkpoint as well. If
one of several ranks meets a fault of the engine or the disk, it ends with that status and the
others with 1. Such a fault of one engine is not saved, because saving takes all ranks.
"""

import errno
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm_rl import ranks
from vlm_rl.errors import joined
from vlm_rl.parts import PartError
from vlm_rl.rollout import EngineError
from vlm_rl.run import folder as run_folder
from vlm_rl.run.files import Unwritable
from vlm_rl.run.heartbeat import OtherEnded
from vlm_rl.run.signals import Preempted
from vlm_rl.show.screen import warn

OTHER, ENGINE, PART, UNWRITABLE, CTRL_C = 1, 3, 4, 74, 130
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def one_line_exits(program: str, run_dir: Path | None = None) -> Iterator[None]:
    """Turn a signal, an engine that gave up, and a full disk into their line and status.

    `run_dir` is given for what happens in training.
    """
    try:
        yield
    except PartError as error:
        status = ENGINE if isinstance(error, EngineError) else PART
        if error.together and not ranks.is_zero():
            raise SystemExit(status) from None  # all ranks stop, rank 0 prints
        line = f"{joined(str(error))}; {_logged(error, run_dir)}{_stopped(run_dir)}"
        raise _exit(program, status, line) from error
    except Preempted as stop:
        status = CTRL_C if stop.signal == signal.SIGINT else 0
        if not ranks.is_zero():
            raise SystemExit(status) from None  # all ranks stop, rank 0 prints
        raise _exit(program, status, f"{stop}: {_stopped(run_dir)}") from None
    except OtherEnded as error:
        raise _exit(program, OTHER, f"{joined(str(error))}; {_stopped(run_dir)}") from error
    except Unwritable as error:
        raise _exit(program, UNWRITABLE, f"{joined(str(error))}; {_stopped(run_dir)}") from error
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        where = error.filename or run_dir or "a file"
        reason = f"cannot write {where}: {error.strerror}; {_stopped(run_dir)}"
        raise _exit(program, UNWRITABLE, reason) from error


def _exit(program: str, status: int, line: str) -> SystemExit:
    warn(f"{program}: {line}")
    return SystemExit(status)


def _logged(error: BaseException, run_dir: Path | None) -> str:
    """Keep the stack of the cause in a file of the run and name it; the screen has one line."""
    if run_dir is None or error.__cause__ is None:
        return ""
    file = run_dir / "error.log"
    with suppress(OSError):
        stack = "".join(traceback.format_exception(error.__cause__))
        file.write_text(stack, encoding="utf-8", errors="backslashreplace")
        return f"its stack is in {file}; "
    return ""


def _stopped(run_dir: Path | None) -> str:
    if run_dir is None:
        return "stopped before training, nothing was changed"
    newest = run_folder.newest_checkpoint(run_dir)
    if newest is None:
        return "stopped before the first checkpoint, the same command starts from the beginning"
    return f"stopped after step {newest.step} with a checkpoint, the same command resumes from it"
