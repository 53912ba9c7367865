"""Programs that this process starts side by side, and that end with it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlm_rl.processes import bound


class ChildPool(ThreadPoolExecutor):
    """Threads that each start a program and wait for its end.

    If what is inside `with` is left by an exception, those that run get SIGTERM and are waited for,
    so that they can save; the others do not start. If this process is killed, so are they.
    """

    def __init__(self, parallel: int) -> None:
        super().__init__(parallel)
        self._running: list[subprocess.Popen[bytes]] = []
        self._guard = threading.Lock()
        self._is_stopped = False

    def run(self, command: Sequence[str], **how: Any) -> int:
        """Run a program to its end, in a thread of the pool; return its status.

        `how` is for Popen. It has a session of its own: Ctrl-C at the terminal reaches this process
        only, and the program gets one signal, not two.
        """
        with self._guard:
            if self._is_stopped:
                return -signal.SIGTERM
            bounded = [sys.executable, bound.__file__, str(os.getpid()), *command]
            child = subprocess.Popen(bounded, start_new_session=True, **how)
            self._running.append(child)
        status = child.wait()
        with self._guard:
            self._running.remove(child)
        return status

    def __exit__(self, kind: Any, *raised: Any) -> None:
        if kind is not None:
            self._stop()
        super().__exit__(kind, *raised)

    def _stop(self) -> None:
        with self._guard:
            self._is_stopped = True
            for child in self._running:
                child.send_signal(signal.SIGTERM)
        self.shutdown(cancel_futures=True)
