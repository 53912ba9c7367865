"""Stop a run at every point of its writing, resume it, and compare it with an undisturbed run.

    python -m measurements.kill_while_writing --output runs/kill_while_writing
    python -m measurements.kill_while_writing --output runs/term --signal TERM

A point is a file that is opened for writing, renamed, deleted or linked, a folder that is made or
deleted, or an activity of a step that begins. At each, in a run of its own: SIGKILL before it; for
an opened file also SIGKILL when half of what is written there has reached the disk. With
`--signal TERM` the run saves and ends by itself. Then the same command runs to its end. Prints a
table of what was left where the end is not that of the undisturbed run: weights and all other
state, `hf/`, every row of metrics.csv in its order (without seconds), every other file, and the
link to the best checkpoint. The exit status is 1 if there is such a point. `--every 5` takes each
fifth point only. Arguments after `--` go to `vlm_rl.fit`.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measurements.kill_and_resume import differences, ended, settings, start, write_data

# isort: split
from rich.console import Console
from rich.table import Table

from vlm_rl.fit import fit
from vlm_rl.run import folder as run_folder
from vlm_rl.run.lock import LOCK
from vlm_rl.training.clock import Clock

LEFT_OUT = ("heartbeat", "wandb", LOCK)
"""Written by clocks, by W&B or by nobody's choice: they differ between two undisturbed runs too."""

Program = Callable[[Sequence[str]], object]

_PATHS = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.symlink": 1}
"""The events of Python's auditing that change a folder, and which of their arguments names what."""

_RANDOM = re.compile(r"(?<=/tmp)\w{8}$")


class Point(NamedTuple):
    """Something that a run does, for the `number`-th time. `torn` is half-way through a file."""

    event: str
    path: str
    number: int = 0
    torn: bool = False

    @property
    def kind(self) -> str:
        """Name it without its step."""
        event, path = self.event.removeprefix("os."), re.sub(r"[0-9]+", "N", self.path)
        return f"{event}{' half of' if self.torn else ''} {path}"


class Watch:
    """See every point of the process that it is called in, from then on.

    Sends `number` at `stop`, or writes all points to `record`.
    """

    def __init__(self, run_dir: Path, number: int, stop: Point | None, record: Path | None) -> None:
        self.run_dir = run_dir
        self.number = number
        self.stop = stop
        self.record = record
        self.seen: dict[tuple[str, str], int] = {}
        self.tearing: tuple[Path, int] | None = None

    def __call__(self) -> None:
        self.pid = os.getpid()
        sys.addaudithook(self._audit)
        begin = Clock.__call__

        def begun(clock: Clock, name: str) -> Any:
            self._at("begin", name)
            return begin(clock, name)

        Clock.__call__ = begun  # type: ignore[method-assign]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if os.getpid() != self.pid:
            return
        if event == "open":
            if isinstance(args[0], int) or not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            if not os.path.isdir(args[0]):  # a file without a name in it
                self._at_path("open", args[0])
        elif event in _PATHS:
            self._at_path(event, args[_PATHS[event]])

    def _at_path(self, event: str, path: Any) -> None:
        name = os.path.relpath(os.fsdecode(path), self.run_dir)
        if name.split("/")[0] not in ("..", *LEFT_OUT):
            self._at(event, _RANDOM.sub("", name), self.run_dir / name)

    def _at(self, event: str, name: str, path: Path | None = None) -> None:
        if self.tearing is not None:
            self._tear(*self.tearing)
        number = self.seen.get((event, name), 0)
        self.seen[event, name] = number + 1
        if self.record is not None:
            with self.record.open("a") as file:
                file.write(json.dumps([event, name, number]) + "\n")
        if self.stop is None or (event, name, number) != self.stop[:3]:
            return
        if self.stop.torn and path is not None:
            self.tearing = path, path.stat().st_size if path.exists() else 0
        else:
            os.kill(self.pid, self.number)

    def _tear(self, path: Path, before: int) -> None:
        """Leave half of what was written, as a kill in the middle of it does."""
        if path.exists():
            os.truncate(path, (before + path.stat().st_size) // 2)
        os.kill(self.pid, signal.SIGKILL)


def points_of(record: Path) -> list[Point]:
    """Read the points of a run, with those half-way through a file."""
    points = [Point(*json.loads(line)) for line in record.read_text().splitlines()]
    torn = [point._replace(torn=True) for point in points if point.event == "open"]
    return [*points, *torn]


def run_recorded(argv: Sequence[str], run_dir: Path, program: Program = fit) -> list[Point]:
    """Run without a break and return all points."""
    record, log = run_dir.with_suffix(".points"), run_dir.with_suffix(".log")
    watch = Watch(run_dir, 0, None, record)
    ended(start(argv, log, before=watch, program=program), wait=True)
    return points_of(record)


def stop_at(
    argv: Sequence[str],
    run_dir: Path,
    point: Point,
    number: int = signal.SIGKILL,
    program: Program = fit,
) -> list[str]:
    """Run until `point`, then to the end; return what the first start left half-written.

    Raises RuntimeError if the first start did not come to the point, or one of them failed.
    """
    stop_once(argv, run_dir, point, number, program)
    left = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*.partial")]
    if not run_folder.is_finished(run_dir):
        ended(start(argv, run_dir.with_suffix(".log"), program=program), wait=True)
    return left


def stop_once(
    argv: Sequence[str], run_dir: Path, point: Point, number: int, program: Program = fit
) -> None:
    """Run until `point`. Raises RuntimeError if the run did not come to it."""
    log = run_dir.with_suffix(".log")
    watch = Watch(run_dir, number, point, None)
    [process] = start(argv, log, before=watch, program=program)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status != (-number if number == signal.SIGKILL else 0):
        raise RuntimeError(f"{point.kind}: the run ended with status {status}, see {log}")


def all_differences(run_dir: Path, whole: Path, step: int) -> Iterator[str]:
    """Yield what differs in two runs of `step` steps, in state, rows, files and links."""
    yield from differences(run_dir, whole, step)
    yield from file_differences(run_dir, whole)


def file_differences(folder: Path, whole: Path) -> Iterator[str]:
    """Yield the files and links that one of two folders does not have, or not so."""
    files = [dict(_files(path)) for path in (folder, whole)]
    yield from (name for name in files[0] | files[1] if files[0].get(name) != files[1].get(name))


def _files(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield every file and link; None for what holds seconds or paths and is compared elsewhere."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] in LEFT_OUT:
            continue
        if path.is_symlink():
            yield name, os.readlink(path)
        elif path.name == "metrics.csv":
            names = path.read_text().partition("\n")[0].split(",")
            yield name, [name for name in names if not name.startswith("time/")]
        elif path.name == "summary.json":
            summary = json.loads(path.read_text())
            summary["files"] = [*summary["files"]]
            yield (
                name,
                {k: v for k, v in summary.items() if k not in ("stage_seconds", "peak_memory_gb")},
            )
        elif path.name in ("config.yaml", "trainer.ckpt") or path.suffix == ".png":
            yield name, None
        elif path.is_file():
            yield name, path.read_bytes()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--every", type=int, default=1, help="take each n-th point")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("fit", nargs="*", help="arguments of vlm_rl.fit, after --")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True)
    own = ["--checkpoint.every_n_steps=2", "--validation.every_n_steps=2", "--data.val_problems=4"]
    command = [*settings(write_data(args.output), args.steps), *own, *args.fit]
    whole = args.output / "undisturbed"
    points = run_recorded([*command, f"--run_dir={whole}"], whole)
    number = getattr(signal, f"SIG{args.signal}")
    taken = [point for point in points if not (point.torn and args.signal == "TERM")]
    table, bad = Table("point", "time", "half-written", "different"), 0
    for index, point in enumerate(taken[:: args.every]):
        run_dir = args.output / f"stopped_{index}"
        try:
            left = stop_at([*command, f"--run_dir={run_dir}"], run_dir, point, number)
            different = [*all_differences(run_dir, whole, args.steps)]
        except RuntimeError as error:
            left, different = [], [str(error)]
        if different:
            bad += 1
            table.add_row(point.kind, str(point.number), ", ".join(left), ", ".join(different))
        else:
            shutil.rmtree(run_dir)
    console = Console(width=140)
    if bad:
        console.print(table)
    console.print(f"{len(taken[:: args.every])} points, {bad} with another end", soft_wrap=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
