"""What attacks need: a tiny checkpoint, data, a finished run, and a start that is judged."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from data_prep import synthetic
from data_prep.tiny_policy import build_untrained
from measurements.kill_and_resume import start

QUIET_S = 120.0
"""A run that uses no processor for so long hangs; one that waits for a busy one does not."""
ENDINGS = (0, 2, 3, 4, 74, 75, 130)
"""The statuses that docs/runs.md gives a meaning to a person; 1 is an unforeseen error."""
_TOO_LONG = 2000


class Outcome(NamedTuple):
    """How a start has ended: its exit status, and all that it wrote to stdout and stderr."""

    status: int
    text: str

    def broke(self, *statuses: int) -> str:
        """Return what is wrong with this ending, an empty text if nothing is.

        It must have one of `statuses`, with one line that says why if that is not 0, and no
        traceback.
        """
        lines = [line for line in self.text.splitlines() if line.strip()]
        said = [line for line in lines if re.match(r"vlm_rl\.\w+: ", line)]
        if "Traceback (most recent call last)" in self.text:
            return f"a traceback, {lines[-1]:.100}"
        if self.status not in statuses:
            return f"status {self.status}: {(said or lines or ['nothing'])[-1]:.100}"
        if self.status and not said:
            return f"status {self.status} without a line"
        if self.status and len(said[-1]) > _TOO_LONG:
            return f"a line of {len(said[-1])} characters"
        return ""


@dataclass(frozen=True)
class Attack:
    """One attack: its kind and name, and what tries it in a new folder and returns what broke."""

    kind: str
    name: str
    tried: Callable[[Path], str]


@dataclass(frozen=True)
class Ground:
    """Where attacks take place: a checkpoint, data, and a run that ended after 2 of 3 steps."""

    folder: Path
    checkpoint: Path = field(init=False)
    data: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", self.folder / "checkpoint")
        object.__setattr__(self, "data", self.folder / "data")

    def prepare(self) -> None:
        """Write the checkpoint, the data and the begun run. Raises RuntimeError if that fails."""
        build_untrained("qwen2_5_vl", self.checkpoint)
        for split, count in (("train", 16), ("val", 4)):
            synthetic.write(self.data, split, count, seed=0, difficulty=(1,))
        outcome = self.run(self.folder / "begun", steps=2)
        if outcome.status:
            raise RuntimeError(f"the run without an attack failed: {outcome.text}")

    def command(self, run_dir: Path, **changes: object) -> list[str]:
        """Return the arguments of `vlm_rl.fit`; `changes` name keys with `__` for dots."""
        sources = {name: json.dumps([{"path": f"{self.data}/{name}.jsonl"}]) for name in SPLITS}
        values = {
            **{"run_dir": run_dir, "policy.path": self.checkpoint, "steps": 3, "group_size": 4},
            **{f"data.{name}": source for name, source in sources.items()},
            **{"data.prompts_per_step": 2, "data.val_problems": 2},
            **{"sampling.max_completion_tokens": 8, "logging.wandb": "off"},
            **{"checkpoint.every_n_steps": 1, "validation.every_n_steps": 2},
        }
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        return ["--config=configs/quickstart.yaml", *(f"--{k}={v}" for k, v in values.items())]

    def begun(self, folder: Path) -> Path:
        """Copy the begun run, which the command without `steps` goes on with."""
        return Path(shutil.copytree(self.folder / "begun", folder / "run", symlinks=True))

    def run(self, run_dir: Path, **changes: object) -> Outcome:
        """Train in a process of its own and wait for its end."""
        return self.end_of(self.command(run_dir, **changes), run_dir.with_suffix(".log"))

    def end_of(
        self, argv: Sequence[str], log: Path, before: Callable[[], None] = lambda: None
    ) -> Outcome:
        """Fork, call `before`, train, and wait as long as the process gets anywhere."""
        log.parent.mkdir(parents=True, exist_ok=True)
        (pid,) = start(argv, log, before=before)
        status = waited(pid)
        return Outcome(status, log.read_text(errors="replace"))


SPLITS = ("train", "val")


def waited(pid: int) -> int:
    """Wait for a child; kill it, and return -9, if it uses no processor for `QUIET_S`."""
    process, spent, since = psutil.Process(pid), -1.0, time.monotonic()
    while True:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            return os.waitstatus_to_exitcode(status)
        now = sum(_seconds(process))
        if now > spent:
            spent, since = now, time.monotonic()
        elif time.monotonic() - since > QUIET_S:
            process.kill()
        time.sleep(0.02)


def _seconds(process: psutil.Process) -> Iterator[float]:
    """Yield the processor time of a process and of its children."""
    try:
        for member in (process, *process.children(recursive=True)):
            times: Any = member.cpu_times()
            yield times.user + times.system
    except psutil.Error:
        yield 0.0


def written_after(folder: Path, name: str) -> bool:
    """Return whether something that must not run has left its mark."""
    return (folder / name).exists()
