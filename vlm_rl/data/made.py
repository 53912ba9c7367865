"""Make data that a program can make, if it is missing."""

import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm_rl.processes.children import ChildPool
from vlm_rl.show.screen import warn


def make_if_missing(target: Path, arguments: str) -> None:
    """Run `python -m ARGUMENTS`, which makes `target`, if there is nothing yet.

    The program must put `target` there when it is whole. Of several processes that want it, one
    makes it and the others wait. Raises ValueError if it fails or makes something else.
    """
    if target.exists():
        return
    with _only_here(target):
        if target.exists():
            return
        warn(f"{target} is missing; making it: python -m {arguments}")
        with ChildPool(1) as pool:
            command = [sys.executable, "-m", *shlex.split(arguments)]
            status = pool.submit(pool.run, command).result()
    if status:
        raise ValueError(f"{target}: python -m {arguments} ended with status {status}")
    if not target.exists():
        raise ValueError(f"{target}: python -m {arguments} has not made it; change `made_by`")


@contextmanager
def _only_here(target: Path) -> Iterator[None]:
    """Hold a lock beside `target`, which is deleted afterwards."""
    path = target.with_name(f"{target.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
    except OSError as error:
        raise ValueError(f"cannot make {target}: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path) -> int:
    """Open and lock a file that is still at its path: who held it before has deleted it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            return lock
        os.close(lock)
