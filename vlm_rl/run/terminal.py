"""Output that outlasts its terminal: what a run prints goes on into a file of its folder.

A closed window, a lost connection or `| head` leave a process whose prints fail. A run must neither
end by that nor lose its last line.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LOG = "terminal.log"
"""The file in a run's folder, made when it is needed."""

_GONE = (errno.EIO, errno.EPIPE, errno.EBADF, errno.ENXIO)


class LastingOutput:
    """What stdout and stderr become inside `opened`."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lost: set[int] = set()

    def go_on_in(self, folder: Path) -> None:
        """Name the run's folder; what a lost terminal should have shown until then is not kept."""
        self._folder = folder
        for descriptor in self._lost:
            self.replace(descriptor)

    def replace(self, descriptor: int) -> None:
        """Let a descriptor write to the log from now on, below Python: its buffer goes there too,
        and what libraries print."""
        self._lost.add(descriptor)
        log = self._open()
        os.dup2(log, descriptor)
        os.close(log)

    @contextmanager
    def opened(self) -> Iterator["LastingOutput"]:
        before = sys.stdout, sys.stderr
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None:  # it was closed when the process began
                setattr(sys, name, _Lasting(stream, self))
        try:
            yield self
        finally:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, _Lasting):
                    stream.flush()
            sys.stdout, sys.stderr = before

    def _open(self) -> int:
        kind = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if self._folder is not None:
            with suppress(OSError):  # a full disk has its own line and status
                return os.open(self._folder / LOG, kind, 0o644)
        return os.open(os.devnull, kind)


class _Lasting:
    """A text stream whose descriptor is replaced once writing to it fails."""

    def __init__(self, stream: Any, output: LastingOutput) -> None:
        self._stream = stream
        self._output = output

    def write(self, text: str) -> int:
        return int(self._kept(lambda: self._stream.write(text)) or 0)

    def flush(self) -> None:
        self._kept(self._stream.flush)

    def _kept(self, call: Any) -> Any:
        try:
            return call()
        except OSError as error:
            if error.errno not in _GONE:
                raise
        self._output.replace(self._stream.fileno())
        return call()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
