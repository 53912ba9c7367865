"""Start trainings without importing everything again.

`python forked_runs.py` imports everything, then forks a process for each line on stdin,
`[what, argument, ...]`, and answers in JSON. Also the parts that make such a training hang or wait.
"""

import functools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import vlm_rl  # noqa: F401  (makes torchvision importable for what follows)

# isort: split
from torch import Tensor

from measurements.kill_and_resume import Moment, differences, kill_and_resume, start
from measurements.kill_reports import PROGRAMS, differences_after, undisturbed
from measurements.kill_while_writing import Point, all_differences, run_recorded, stop_at, stop_once
from tests.support.run_helpers import EvenTokens
from vlm_rl import ranks
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import LUSPO
from vlm_rl.records import Completion, Groups, Problem, Prompt
from vlm_rl.rollout import TransformersEngine
from vlm_rl.run.heartbeat import Heartbeat
from vlm_rl.training.clock import Clock

NOBODY = 65534


class HangsAtSecondStep(EvenTokens):
    """Hangs in its second call; the first is in the validation, or in step 1 if there is none."""

    calls = 0

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        type(self).calls += 1
        if self.calls == 2:
            time.sleep(1000)
        return super().__call__(problems, groups)


class Planted(EvenTokens):
    """Does in rank 1 what the file at `path` says: `fail` or `wait`."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        if ranks.rank() == 1 and self.path.exists():
            if self.path.read_text() == "wait":
                time.sleep(1000)
            raise ValueError("planted")
        return super().__call__(problems, groups)


class SlowTokens(TransformersEngine):
    """Takes seconds for a rollout, but decodes a token every 0.3 s."""

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[list[Completion]]:
        assert self._policy is not None
        hook = self._policy.part("language_model").register_forward_pre_hook(
            lambda *_: time.sleep(0.3)
        )
        try:
            return super().generate(prompts, **how)
        finally:
            hook.remove()


class SlowUpdate(LUSPO):
    def __call__(self, *batch: Any) -> Any:
        time.sleep(1.0)
        return super().__call__(*batch)


def fork(call: Callable[[], None], log: Path) -> int:
    process = os.fork()
    if process:
        return process
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    call()
    os._exit(0)


def two_ranks(folder: Path) -> list[int]:
    """Fork a silent rank 1, and a rank 0 that waits for it and beats."""

    def rank(number: int) -> None:
        while number == 1 and not (folder / "heartbeat/rank_0.json").exists():
            time.sleep(0.01)  # as training does, neither falls silent before both have begun
        with Heartbeat(folder, 1.0 if number else 60.0, rank=number, num_ranks=2) as heart:
            while number == 0:
                heart.touch()
                time.sleep(0.1)
            time.sleep(60)

    return [fork(lambda n=n: rank(n), folder / f"{n}.log") for n in range(2)]  # type: ignore[misc]


def as_nobody(argv: list[str], log: Path) -> int:
    process = os.fork()
    if process:
        return process
    log.touch()
    log.chmod(0o666)
    os.setuid(NOBODY)
    status = wait(*start(argv, log))
    os._exit(status)


def wait(process: int) -> int:
    """Return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kills(argv: list[str], run_dir: str, moments: list[float]) -> list[int]:
    """Return the steps in which the run was killed."""
    drawn = [Moment(moment, rank=0) for moment in moments]
    return [kill.beat.step for kill in kill_and_resume(argv, Path(run_dir), drawn)]


def start_with_small_files(argv: list[str], log: Path, num_ranks: int, limit: int) -> list[int]:
    """Start ranks that cannot write a file above `limit` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        return start(argv, log, num_ranks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def start_told(argv: list[str], log: Path, place: str, number: int, to: str) -> list[int]:
    """Start two ranks, in a process group of their own, of which `to` ("rank 0", "rank 1", "group")
    gets a signal when it loads the model ("start"), when rank 0 does and rank 1 waits for it
    ("meeting"), or begins an activity after an update."""
    [run_dir] = [word.removeprefix("--run_dir=") for word in argv if word.startswith("--run_dir=")]
    beat = Path(run_dir) / "heartbeat/rank_1.json"
    sender = 1 if to == "rank 1" else 0

    def tell() -> None:
        while place == "meeting" and not beat.exists():
            time.sleep(0.01)
        if to == "group":
            os.killpg(0, number)
        else:
            os.kill(os.getpid(), number)

    def before() -> None:
        with group.get_lock():
            os.setpgid(0, group.value)  # 0 makes one
            group.value = os.getpgrp()
        joined.wait()  # the group is whole
        if int(os.environ["LOCAL_RANK"]) == sender:
            tell_at(place, tell)

    group, joined = multiprocessing.Value("i", 0), multiprocessing.Barrier(2)
    return start(argv, log, 2, before)


def tell_at(place: str, tell: Callable[[], None]) -> None:
    """Call `tell` once, when this process comes to a place."""
    seen: list[str] = []
    load, begin = Policy.from_pretrained, Clock.__call__

    @functools.wraps(load)  # the parser reads signatures
    def loading(*args: Any, **kwargs: Any) -> Any:
        tell()
        return load(*args, **kwargs)

    def beginning(clock: Clock, name: str) -> Any:
        due = name == place and "update" in seen and "told" not in seen
        seen.extend([name, "told"] if due else [name])
        if due:
            tell()
        return begin(clock, name)

    if place in ("start", "meeting"):
        Policy.from_pretrained = staticmethod(loading)  # type: ignore[method-assign]
    Clock.__call__ = beginning  # type: ignore[method-assign]


COMMANDS: dict[str, Callable[..., Any]] = {
    "start": lambda argv, log, number: start(argv, Path(log), number),
    "start_told": lambda argv, log, *how: start_told(argv, Path(log), *how),
    "start_with_small_files": lambda argv, log, *how: start_with_small_files(argv, Path(log), *how),
    "wait": wait,
    "compare": lambda a, b, step: list(differences(Path(a), Path(b), step)),
    "kills": kills,
    "run_recorded": lambda argv, run_dir: run_recorded(argv, Path(run_dir)),
    "stop_at": lambda argv, run_dir, point, number: stop_at(
        argv, Path(run_dir), Point(*point), number
    ),
    "stop_once": lambda argv, run_dir, point, number: stop_once(
        argv, Path(run_dir), Point(*point), number
    ),
    "compare_all": lambda a, b, step: list(all_differences(Path(a), Path(b), step)),
    # in a group of its own, as a shell starts it
    "start_program": lambda program, argv, log: start(
        argv, Path(log), before=lambda: os.setpgid(0, 0), program=PROGRAMS[program]
    ),
    "undisturbed": lambda program, argv, whole: undisturbed(program, argv, Path(whole)),
    "differences_after": lambda program, argv, whole, folder, point: list(
        differences_after(program, argv, Path(whole), Path(folder), Point(*point))
    ),
    "two_ranks": lambda folder: two_ranks(Path(folder)),
    "as_nobody": lambda argv, log: as_nobody(argv, Path(log)),
}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), file=out, flush=True)
