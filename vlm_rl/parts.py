"""Parts of a user's own (engines, rewards, advantages, filters, objectives) at the border.

What they return is checked where it enters, and what they raise is named: one line with the class,
never a traceback far from the cause. The stack goes to the log file of the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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
    """Turn whatever `part` raises inside, also `exit()`, into one `kind` that names its class."""
    try:
        yield
    except (PartError, torch.OutOfMemoryError):  # names itself; is the machine's
        raise
    except (Exception, SystemExit) as error:
        what = f"exit({error.code})" if isinstance(error, SystemExit) else type(error).__name__
        reason = "" if isinstance(error, SystemExit) or not str(error) else f": {error}"
        raise kind(f"{place} {path_of(part)} failed with {what}{reason}") from error


def path_of(part: object) -> str:
    """Return the path of a part's class, as `class_path` names it."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def check_values(
    values: object, part: object, place: str, shape: tuple[int, ...], of: list[str]
) -> Tensor:
    """Return `values` if they are finite float64 of `shape` [P, G] without a graph.

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
        problem, completion = bad[0].tolist()
        raise PartError(
            f"{who} must return finite values, got {values[problem, completion].item()} for "
            f"completion {completion} of problem {of[problem]!r}, one of {len(bad)} such"
        )
    return values
