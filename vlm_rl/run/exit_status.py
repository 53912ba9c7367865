"""How a run ends other than with its last step: one line and an exit status.

0    SIGTERM, SIGUSR1 or SIGHUP: saved; the same command resumes
1    another rank has failed or is gone, or another start owns the folder by now; also
     any other error, with its traceback
2    the configuration or its data are wrong, or another run owns the folder; nothing was trained
3    the rollout engine gave up: saved
4    a part of one's own (reward, advantage, filter, objective) failed: saved, unless in an update
71   out of memory, on the host or a device (EX_OSERR): saved, unless in an update
74   the run's folder cannot be written, usually because the disk is full (EX_IOERR)
75   a hang (EX_TEMPFAIL)
130  Ctrl-C: saved

After all but 0 and 2 the same command resumes from the last complete checkpoint as well. If one of
several ranks meets a fault of the engine, memory or the disk, it ends with that status and the
others with 1. Such a fault of one rank is not saved, because saving takes all ranks.
"""

import os
import signal
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlm_rl import ranks
from vlm_rl.errors import joined
from vlm_rl.parts import PartError, is_out_of_memory
from vlm_rl.rollout import EngineError
from vlm_rl.run import folder as run_folder
from vlm_rl.run.endings import CTRL_C, ENGINE, MEMORY, UNWRITABLE, cannot_write
from vlm_rl.run.heartbeat import OtherEnded
from vlm_rl.run.out_of_memory import advice
from vlm_rl.run.signals import Preempted
from vlm_rl.show.screen import warn
from vlm_rl.training.clock import Clock

OTHER, PART = 1, 4


class Exits:
    """Turns what ends a run into its line and status, with what is known of the run so far.

    `run_dir` is set once training begins, `config` once it is read, `clock` once there is one.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.run_dir: Path | None = None
        self.config: Mapping[str, Any] = {}
        self.clock: Clock | None = None

    @contextmanager
    def in_one_line(self) -> Iterator[None]:
        """Surround the run, or a part of it."""
        try:
            yield
        except PartError as error:
            status = ENGINE if isinstance(error, EngineError) else PART
            if error.together and not ranks.is_zero():
                raise SystemExit(status) from None  # all ranks stop, rank 0 prints
            raise self._exit(status, joined(str(error)), error.__cause__) from error
        except Preempted as stop:
            status = CTRL_C if stop.signal == signal.SIGINT else 0
            if not ranks.is_zero():
                raise SystemExit(status) from None  # all ranks stop, rank 0 prints
            raise self._exit(status, str(stop), mark=":") from None
        except OtherEnded as error:
            raise self._exit(OTHER, joined(str(error))) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise self._exit(MEMORY, self._out_of_memory(error), error) from error
            if reason := cannot_write(error, str(self.run_dir or "a file")):
                raise self._exit(UNWRITABLE, reason) from error
            raise

    def at_once(self, stop: Preempted) -> None:
        """End the process, with the line and the status that `stop` has in the main thread."""
        try:
            with self.in_one_line():
                raise stop
        except SystemExit as end:
            os._exit(int(end.code or 0))

    def _exit(
        self, status: int, line: str, stack_of: BaseException | None = None, mark: str = ";"
    ) -> SystemExit:
        rest = f"{self._logged(stack_of)}{self._stopped()}"
        warn(f"{self.program}: {line}{mark} {rest}")
        return SystemExit(status)

    def _out_of_memory(self, error: BaseException) -> str:
        activity = "start" if self.clock is None else self.clock.failed_in or self.clock.activity
        reason = joined(str(error) or type(error).__name__)[:200]
        return f"out of memory in the {activity} ({reason}); {advice(self.config, activity)}"

    def _logged(self, error: BaseException | None) -> str:
        """Keep the stack of the cause in a file of the run and name it; the screen has one line."""
        if self.run_dir is None or error is None:
            return ""
        file = self.run_dir / "error.log"
        with suppress(OSError):
            stack = "".join(traceback.format_exception(error))
            file.write_text(stack, encoding="utf-8", errors="backslashreplace")
            return f"its stack is in {file}; "
        return ""

    def _stopped(self) -> str:
        if self.run_dir is None:
            return "stopped before training, nothing was changed"
        newest = run_folder.newest_checkpoint(self.run_dir)
        if newest is None:
            return "stopped before the first checkpoint, the same command starts from the beginning"
        done = f"stopped after step {newest.step} with a checkpoint"
        return f"{done}, the same command resumes from it"
