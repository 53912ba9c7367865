"""Parts of a user's own (engines, rewards, advantages, filters, objectives) at the border.

What they return is checked where it enters, and what they raise is named: one line with the class,
never a traceback far from the cause. The stack goes to the log file of the run. A part that leaves
the process otherwise than it found it would ruin the run's files later, and is named as well.
"""

import errno
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import torch
from torch import Tensor


class PartError(RuntimeError):
    """A part failed or returned what it must not. Its message is for the user."""

    together = False
    """Whether every rank raises it, at the same place."""

    unharmed = True
    """Whether the weights are those of the last complete step."""


class UpdateError(PartError):
    """A part failed in an update, which may have changed the weights already."""

    unharmed = False


@contextmanager
def named(part: object, place: str, kind: type[PartError] = PartError) -> Iterator[None]:
    """Turn whatever `part` raises inside, also `exit()`, into one `kind` that names its class.

    The same for a part that moves to another folder or closes stdout or stderr. A child that it has
    forked and lets return ends here.
    """
    who = f"{place} {path_of(part)}"
    try:
        with undisturbed(who, kind):
            yield
    except PartError:
        raise  # names itself
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise  # is the machine's
        what = f"exit({error.code})" if isinstance(error, SystemExit) else type(error).__name__
        reason = "" if isinstance(error, SystemExit) or not str(error) else f": {error}"
        raise kind(f"{who} failed with {what}{reason}") from error


@contextmanager
def undisturbed(who: str, kind: type[PartError] = PartError) -> Iterator[None]:
    """Let foreign code inside change neither process, working directory, stdout nor stderr.

    What it has changed is put back. `os._exit` raises SystemExit, so that the run can still save.
    """
    process, folder = os.getpid(), _working_directory()
    spare = {number: _duplicate(number) for number in (1, 2)}
    try:
        with _exit_raises():
            yield
    finally:
        if os.getpid() != process:
            _end_child(who)
        changes = [*_put_back_streams(spare), *_put_back_folder(folder)]
    if changes:
        raise kind(f"{who} has {' and '.join(changes)}; leave the process as it was")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory of the host or a device was too small; its libraries have several errors."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


_NO_MEMORY = (
    "can't allocate memory",  # torch's allocator on the host
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


@contextmanager
def _exit_raises() -> Iterator[None]:
    """Replace `os._exit` for this thread of this process: its children and watchdogs need it."""
    leave, process, thread = os._exit, os.getpid(), threading.get_ident()

    def exit_or_raise(status: int) -> NoReturn:
        if os.getpid() == process and threading.get_ident() == thread:
            raise SystemExit(status)
        leave(status)

    os._exit = exit_or_raise
    try:
        yield
    finally:
        os._exit = leave


def _end_child(who: str) -> NoReturn:
    """End a forked process that would go on with the run: two would write one folder."""
    line = f"{who} has forked, and its child returned; the child ends here, the run goes on\n"
    with suppress(OSError):
        os.write(2, line.encode())  # nothing of the parent's buffers
    os._exit(1)


def _put_back_streams(spare: dict[int, int | None]) -> Iterator[str]:
    for number, copy in spare.items():
        if copy is None:
            continue  # it was closed before
        name = "stdout" if number == 1 else "stderr"
        was_closed = not _is_open(number)
        if was_closed:
            os.dup2(copy, number)
        os.close(copy)
        stream = getattr(sys, name)
        if stream is not None and stream.closed:
            was_closed = True
            setattr(sys, name, os.fdopen(number, "w", 1, closefd=False))
        if was_closed:
            yield f"closed {name}"


def _put_back_folder(folder: str | None) -> Iterator[str]:
    now = _working_directory()
    if folder is not None and now != folder and os.path.isdir(folder):
        os.chdir(folder)
        yield f"changed the working directory from {folder} to {now}"


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it has been deleted


def _duplicate(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:
        return None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def path_of(part: object) -> str:
    """Return the path of a part's class, as `class_path` names it."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def check_values(
    values: object, part: object, place: str, shape: tuple[int, ...], of: Sequence[str]
) -> Tensor:
    """Return `values` if they are finite float64 of `shape` [P, G, ...] without a graph.

    `of` names the problems by uid. Raises PartError.
    """
    who = f"{place} {path_of(part)}"
    wanted = f"a float64 tensor of shape {list(shape)}"
    if not isinstance(values, Tensor):
        raise PartError(f"{who} must return {wanted}, got {type(values).__name__}")
    if values.dtype != torch.float64 or values.shape != shape:
        kind = str(values.dtype).removeprefix("torch.")
        raise PartError(f"{who} must return {wanted}, got {kind} of shape {list(values.shape)}")
    if values.requires_grad:
        raise PartError(f"{who} returns values with a gradient graph; return values.detach()")
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        problem, completion, *_ = place_of_bad = bad[0].tolist()
        raise PartError(
            f"{who} must return finite values, got {values[tuple(place_of_bad)].item()} for "
            f"completion {completion} of problem {of[problem]!r}, one of {len(bad)} such"
        )
    return values
