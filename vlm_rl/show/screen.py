"""The terminal: every string is text, and none of its characters controls the terminal."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Table
from rich.text import Text

from vlm_rl.show.plain import one_line, visible

__all__ = ["Progress", "Screen", "Table", "TaskID", "bars", "say", "say_all", "track", "warn"]

Item = TypeVar("Item")


def say(line: str) -> None:
    """Print one line."""
    _write(one_line(line), sys.stdout)


def say_all(text: str) -> None:
    """Print text of several lines."""
    _write(visible(text), sys.stdout)


def warn(line: str) -> None:
    """Print one line to standard error, at once."""
    _write(one_line(line), sys.stderr)


def warn_all(text: str) -> None:
    """Print text of several lines to standard error, at once."""
    _write(visible(text), sys.stderr)


class Screen(Console):
    """A console to which strings are text: no markup, no emoji codes, no control characters."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text, wherever it stands; what asks for markup does not get it."""
        return super().render_str(visible(text), **options | {"markup": False, "emoji": False})

    def put(self, text: str, style: str | None = None) -> None:
        """Print one line, which the terminal may wrap but rich does not."""
        self.print(one_line(text), style=style, soft_wrap=True)

    def waiting(self, what: str) -> Status:
        """Show a spinner beside `what` while the result is entered."""
        return super().status(Text(one_line(what)))


def bars(
    screen: Screen | None = None,
    *,
    name_chars: int = 0,
    transient: bool = False,
    hidden: bool = False,
) -> Progress:
    """Return bars that show the name of a task, its counts and its times.

    Transient ones are for a terminal: elsewhere they would leave an empty line and nothing else.
    """
    screen = screen or Screen()
    return Progress(
        _Name(name_chars),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=transient,
        disable=hidden or (transient and not screen.is_terminal),
    )


def track(
    items: Sequence[Item] | Iterable[Item],
    name: str,
    *,
    total: float | None = None,
    transient: bool = False,
    hidden: bool = False,
) -> Iterator[Item]:
    """Yield `items` with a bar."""
    with bars(transient=transient, hidden=hidden) as progress:
        yield from progress.track(items, total=total, description=name)


class _Name(ProgressColumn):
    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def render(self, task: Task) -> Text:
        return Text(f"{one_line(task.description):<{self._width}}")


def _write(text: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(
        text.encode(encoding, "backslashreplace").decode(encoding),
        file=stream,
        flush=stream is sys.stderr,
    )
