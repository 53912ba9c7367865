"""What every process of a run is doing right now, and an end with reasons for one that hangs.

Each process keeps `heartbeat/rank_N.json` in the run's folder: phase, step, time of the last sign
of life. Where one has been silent for too long, all of them write their stacks to stderr and to
`heartbeat/rank_N.stacks.txt` and end: those that wait for the silent one can not go on either.
Where one fails, or is gone, the others end too, and name it. All of that needs one folder for all
processes, as checkpoints do: a run whose nodes have each their own is refused.
"""

import faulthandler
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import lightning as L
import torch.distributed as dist

from vlm_rl import ranks
from vlm_rl.config import one_line_errors
from vlm_rl.errors import joined
from vlm_rl.rollout import EngineError
from vlm_rl.rollout.watchdog import Watchdog
from vlm_rl.training.module import RLModule

NOTICE = "hang"
"""In the folder `heartbeat`: the process that was silent asks the others for their stacks."""

FAILED = "failed"
"""In the same folder: what a process has ended with that the others are to know of."""

GATHER_S = 10.0
"""How long the first waits for the stacks of the others: they look for its notice every second, and
a launcher that sees one process end soon ends the rest."""


SHARED_S = 60.0
"""How late a file of another node may be seen: NFS keeps what it knows of a folder for so long
(acdirmax in nfs(5))."""

GONE_S = 2.5
"""A process that has not refreshed its file for so long is gone: it would every second."""


class OtherEnded(RuntimeError):
    """This process ends for what has befallen another one, which it names."""


class Beat(NamedTuple):
    """What one process said of itself."""

    rank: int
    processes: int
    phase: str
    step: int
    unix: float
    pid: int
    host: str


class Heartbeat(L.Callback, Watchdog):
    """To be open around the whole training, and among the trainer's callbacks.

    A beat is a stage that begins, a step or a validation batch that ends, and every forward of the
    policy: also a token of the rollout where the policy itself decodes. `limit_s` is that of
    silence between two of them.
    """

    def __init__(self, run_dir: Path, limit_s: float, *, rank: int = 0, processes: int = 1) -> None:
        Watchdog.__init__(self, limit_s, "")
        self.folder = run_dir / "heartbeat"
        self._rank = rank
        self._processes = processes
        self._phase = "starting"
        self._everyone: frozenset[tuple[int, int, str]] = frozenset()
        self._dead_since: float | None = None
        self._module: RLModule | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        super().touch()
        self._write()
        # by the clock of the file system, which all processes share
        self._began = self._file("json").stat().st_mtime
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Raises OtherEnded where the error is but the end of another process."""
        fault = None
        together = isinstance(error[1], EngineError) and error[1].together
        if isinstance(error[1], Exception) and not together and self._processes > 1:
            fault = self._fault_of_others(error[1])
        super().__exit__(*error)
        self._phase = "ended" if error[0] is None else f"ended in {self._phase}"
        self._write()
        if fault is not None:
            raise OtherEnded(f"rank {self._rank} ends, {fault}") from error[1]

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._refuse_own_folders()
        self._module = module
        module.clock.listen(self._begin)
        module.policy.part("language_model").register_forward_pre_hook(lambda *_: self.touch())

    def _refuse_own_folders(self) -> None:
        """End with one line where a process does not find what another one has written."""
        everyone = ranks.gather((self._rank, os.getpid(), socket.gethostname()))
        self._everyone = frozenset(everyone)
        until = time.monotonic() + min(SHARED_S, self._limit_s / 2)
        while (unseen := self._unseen(everyone)) and time.monotonic() < until:
            time.sleep(0.1)
        for (rank, _, host), missed in zip(everyone, ranks.gather(unseen), strict=True):
            if missed:
                other, host_of_other = missed[0]
                with one_line_errors("vlm_rl.fit", speaks=self._rank == 0):
                    raise ValueError(
                        f"run_dir={self.folder.parent} must be one folder for all processes, but "
                        f"rank {rank} on {host} does not find there what rank {other} on "
                        f"{host_of_other} writes; give one on a file system that all nodes share"
                    )

    def _unseen(self, everyone: list[tuple[int, int, str]]) -> list[tuple[int, str]]:
        """Rank and host of those whose file here is none, or that of another run."""
        seen = {(beat.rank, beat.pid, beat.host) for beat in read_beats(self.folder)}
        return [(rank, host) for rank, pid, host in everyone if (rank, pid, host) not in seen]

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.touch()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self._begin("between steps")

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.touch()

    def _begin(self, phase: str) -> None:
        self._phase = phase
        self.touch()
        self._write()

    def _look(self) -> None:
        """Every second: refresh the file, end where this process or another one is silent."""
        self._write()
        if self._is_due():
            (self.folder / NOTICE).touch()
            self._end(f"rank {self._rank} has been silent for {self._limit_s:g} s")
        elif _written_after(self.folder / NOTICE, self._began):
            self._end(f"rank {self._rank} ends with another process that is silent")
        elif dead := self._dead():
            self._put(self.folder / FAILED, dead)
        elif _written_after(self.folder / FAILED, self._began):
            reason = (self.folder / FAILED).read_text()
            print(f"rank {self._rank} ends, {reason}", file=sys.stderr, flush=True)
            os._exit(1)  # it waits for that one in foreign code

    def _dead(self) -> str | None:
        """Names one that is gone for longer than the main thread needs to be told so: gloo tells
        it, NCCL lets it wait."""
        gone = [
            beat
            for beat in read_beats(self.folder)
            if (beat.rank, beat.pid, beat.host) in self._everyone
            and beat.rank != self._rank
            and not beat.phase.startswith("ended")
            and _has_ended(beat)
        ]
        self._dead_since = self._dead_since or time.monotonic() if gone else None
        if self._dead_since is None or time.monotonic() < self._dead_since + GATHER_S:
            return None
        return _gone(gone[0])

    def _fault_of_others(self, error: Exception) -> str | None:
        """What another process has failed with, or that it is gone; None where the fault is this
        one's, which the others then read."""
        told = self.folder / FAILED
        if _written_after(told, self._began):
            return told.read_text()
        gone = self._gone() if _may_be_of_a_collective(error) else None
        if gone is None:
            what = f"{type(error).__name__}: {error}"
            self._put(told, joined(f"rank {self._rank} failed {self._place()}: {what}"))
            return None
        self._put(told, gone)
        return gone

    def _gone(self) -> str | None:
        """Names those that give no sign of life any more, and where they were."""
        self._write()
        since = self._file("json").stat().st_mtime
        until = time.monotonic() + GONE_S
        gone: list[Beat] = []
        while not gone and (silent := self._silent_since(since)):
            late = time.monotonic() > until
            gone = [beat for beat in silent if late or _has_ended(beat)]
            time.sleep(0.1)
        return "; ".join(map(_gone, gone)) or None

    def _silent_since(self, since: float) -> list[Beat]:
        """The others whose files are older."""
        return [
            beat
            for beat in read_beats(self.folder)
            if beat.rank < self._processes
            and beat.rank != self._rank
            and not _written_after(self.folder / f"rank_{beat.rank}.json", since)
        ]

    def _end(self, reason: str) -> None:
        stacks = self._file("stacks.txt")
        with stacks.open("w") as file:
            faulthandler.dump_traceback(file=file)
        print(f"rank {self._rank}:\n{stacks.read_text()}", file=sys.stderr)
        until = time.monotonic() + GATHER_S
        while not self._all_have_written() and time.monotonic() < until:
            time.sleep(0.1)
        super()._end(f"{reason}, {self._place()}; {'; '.join(self._others())}stacks in {stacks}")

    def _all_have_written(self) -> bool:
        files = [self.folder / f"rank_{rank}.stacks.txt" for rank in range(self._processes)]
        return all(_written_after(file, self._began) for file in files)

    def _others(self) -> Iterator[str]:
        """Where every other process was, the one that has been silent for longest first."""
        beats = sorted(read_beats(self.folder), key=lambda beat: beat.unix)
        for beat in beats:
            if beat.rank != self._rank and beat.rank < self._processes:
                seconds = max(0.0, time.time() - beat.unix)
                yield f"rank {beat.rank} in {beat.phase} of step {beat.step}, {seconds:.0f} s ago"
        if self._processes > 1:
            yield ""

    def _place(self) -> str:
        return f"in {self._phase} of step {self._step()}"

    def _step(self) -> int:
        """The step in progress, from 1."""
        return 0 if self._module is None else self._module.completed_steps + 1

    def _write(self) -> None:
        now = time.time() - self.silent_s
        host = socket.gethostname()
        beat = Beat(self._rank, self._processes, self._phase, self._step(), now, os.getpid(), host)
        self._put(self._file("json"), json.dumps(beat._asdict()))

    def _put(self, target: Path, text: str) -> None:
        with suppress(OSError):  # a full disk is for the checkpoint to answer
            # two threads write, and several processes
            partial = target.with_suffix(f".{self._rank}.{time.monotonic_ns()}.partial")
            partial.write_text(text)
            partial.replace(target)

    def _file(self, ending: str) -> Path:
        return self.folder / f"rank_{self._rank}.{ending}"


def read_beats(folder: Path) -> list[Beat]:
    """The last beat of every process, in any order."""
    return [Beat(**json.loads(path.read_text())) for path in folder.glob("rank_*.json")]


def _may_be_of_a_collective(error: Exception) -> bool:
    """As gloo (RuntimeError itself) and NCCL answer where another process has left."""
    return type(error) is RuntimeError or isinstance(error, dist.DistError)


def _gone(beat: Beat) -> str:
    return (
        f"rank {beat.rank} is gone (killed? out of memory?), last seen in {beat.phase} of step "
        f"{beat.step}"
    )


def _has_ended(beat: Beat) -> bool:
    """Known at once on the same machine, if that is Linux, and before a launcher has noticed."""
    if beat.host != socket.gethostname() or not Path("/proc/self/stat").exists():
        return False
    try:
        state = Path(f"/proc/{beat.pid}/stat").read_text().rpartition(") ")[2]
    except OSError:
        return True
    return state.startswith(("Z", "X"))


def _written_after(path: Path, since: float) -> bool:
    try:
        return path.stat().st_mtime > since
    except OSError:
        return False
