"""One folder, one owner: the file `lock` says which process writes there.

It holds host, pid, and when the process began, and its time of change is the last sign of life. On
the owner's own machine it is stale as soon as that process has ended, elsewhere after `SILENT_S`
without a sign, by the clock of the file system. It is judged and taken under a lock of the kernel,
which NFS passes on, so that two starts at the same moment cannot both win.
"""

import errno
import fcntl
import json
import os
import secrets
import shlex
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from vlm_rl.disk.files import PARTIAL
from vlm_rl.show.screen import warn

LOCK = "lock"

BEAT_S = 5.0
SILENT_S = 60.0
"""Longer than a machine is busy or NFS keeps what it knows of a file (acregmax in nfs(5))."""

_GUARD_S = 10.0
"""How long another start may look at the lock."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_SHOWN, _MAX_COMMAND = 60, 1000


class Owner(NamedTuple):
    """The process that a lock names. `machine` tells boots and containers of one host apart;
    `began` is the kernel's time of its start."""

    host: str
    machine: str
    pid: int
    began: str
    since: str
    command: str
    token: str

    @classmethod
    def here(cls) -> Self:
        """Return this process."""
        pid, since = os.getpid(), datetime.now().astimezone().isoformat(" ", "seconds")
        began, command = process_start(pid) or "", shlex.join(sys.argv)[:_MAX_COMMAND]
        return cls(
            socket.gethostname(), _machine(), pid, began, since, command, secrets.token_hex(8)
        )


class FolderInUse(ValueError):
    """Another process owns the folder. The message is for the user."""


class FolderLock:
    """Own `folder` from `with` to its end. `key` is the option that names it, for messages.

    Entering raises FolderInUse, and ValueError if the lock cannot be opened. If another process
    takes the folder all the same, because this one was stopped for longer than `SILENT_S` or its
    lock was deleted, this process ends at once with status 1.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / LOCK
        self._key = key
        self._own = Owner.here()
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="folder lock", daemon=True)

    def __enter__(self) -> Self:
        self._made = _make(self.path.parent)
        try:
            self._claim()
        except OSError as error:
            raise ValueError(
                f"{self._key}={self.path.parent}: cannot take {self.path}: {error.strerror}; "
                f"make it writable, or give another folder by --{self._key}"
            ) from error
        self._beats.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        if os.getpid() != self._own.pid:
            return  # a forked child that has left its parent's code
        self._ended.set()
        self._beats.join()
        with suppress(OSError), self._guarded() as file:
            owner = _read(file)
            if owner is not None and owner.token == self._own.token:
                self.path.unlink()
        with suppress(OSError):  # only what this start has made, and nothing was written to
            for folder in self._made:
                folder.rmdir()

    def _claim(self) -> None:
        """Take the folder, or give a sign of life. Raises FolderInUse."""
        with self._guarded() as file:
            owner = _read(file)
            if owner is None or owner.token != self._own.token:
                # under the guard nobody is writing, so what cannot be read was left by a kill
                if owner is not None and not self._is_stale(owner, file):
                    raise FolderInUse(self._refusal(owner, file))
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(self._own._asdict()).encode(), 0)
            os.utime(file)

    @contextmanager
    def _guarded(self) -> Iterator[int]:
        """Open the lock so that no other process changes it meanwhile."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            file = os.open(self.path, flags, 0o644)
            try:
                _guard(file)
                if self._is_at_its_path(file):
                    yield file
                    return
            finally:
                os.close(file)  # and with it the guard

    def _is_at_its_path(self, file: int) -> bool:
        """Whether the owner has not deleted it before this process came to see it."""
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not a file")
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _is_stale(self, owner: Owner, file: int) -> bool:
        if owner.machine == self._own.machine:
            return process_start(owner.pid) != owner.began
        return self._silent_s(file) > SILENT_S

    def _silent_s(self, file: int) -> float:
        with tempfile.NamedTemporaryFile(dir=self.path.parent, suffix=PARTIAL) as now:
            return os.stat(now.name).st_mtime - os.fstat(file).st_mtime

    def _refusal(self, owner: Owner, file: int) -> str:
        line = (
            f"{self._key}={self.path.parent} is in use by process {owner.pid} on {owner.host} "
            f"since {owner.since} ({owner.command:.{_SHOWN}}); wait for its end or stop it, or "
            f"give another folder by --{self._key}"
        )
        if owner.machine == self._own.machine:
            return line
        silent = max(0.0, self._silent_s(file))
        return (
            f"{line}; its last sign of life was {silent:.0f} s ago, after {SILENT_S:.0f} s without "
            "one the folder is free"
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._claim()
            except FolderInUse as error:
                warn(f"{error}; this process ends")
                os._exit(1)  # whatever it writes now would be mixed with what the other writes
            except OSError:
                pass  # a folder that cannot be reached is reported by what is written there


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that were missing, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {folder}: {error.strerror}") from error
    return missing


def _guard(file: int) -> None:
    until = time.monotonic() + _GUARD_S
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return  # then only two starts that find a stale lock at once could both win
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _read(file: int) -> Owner | None:
    """Return whom a lock names; None if nobody, or if a kill has cut it short."""
    try:
        owner = Owner(**json.loads(os.pread(file, 1 << 16, 0)))
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = Owner.__annotations__
    whole = all(type(value) is kinds[name] for name, value in owner._asdict().items())
    return owner if whole else None


def _machine() -> str:
    """Name what a pid belongs to: the boot of a machine and, in a container, its own numbers."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """Return when a process of this machine began, by the kernel's clock; None if it has ended.

    Empty where the system does not tell.
    """
    if not Path("/proc/self/stat").exists():
        return "" if _exists(pid) else None
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
