"""What every rank is doing right now, and how the run ends if a rank hangs, fails or is gone.

Each rank keeps `heartbeat/rank_N.json` in the run's folder: phase, step, time of the last sign of
life. If one is silent for too long, all ranks write their stacks to stderr and to
`heartbeat/rank_N.stacks.txt` and end, because the others wait for the silent one. If one fails or
is gone, the others end too, and name it. All ranks must see one folder, as for checkpoints; a run
whose nodes each have their own is refused.
"""

import faulthandler
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import lightning as L
import torch.distributed as dist

from vlm_rl import ranks
from vlm_rl.config import one_line_errors
from vlm_rl.disk.files import Damaged, read_json
from vlm_rl.errors import joined
from vlm_rl.rollout import EngineError
from vlm_rl.rollout.watchdog import Watchdog
from vlm_rl.run.lock import process_start
from vlm_rl.show.screen import warn, warn_all
from vlm_rl.training.module import RLModule

NOTICE = "hang"
"""File in `heartbeat`: the silent rank asks the others for their stacks."""

FAILED = "failed"
"""File in `heartbeat`: why a rank has ended, for the others to repeat."""

GATHER_S = 10.0
"""How long the silent rank waits for the stacks of the others. They look for its notice every
second; a launcher that sees one process end soon ends the rest."""

SHARED_S = 60.0
"""How late a file of another node may appear: NFS caches a folder for so long (acdirmax in
nfs(5))."""

GONE_S = 10.0
"""A rank refreshes its file every second. On another machine, one that has not done so for this
long is gone; on this one its process says so, however busy the machine is."""


class OtherEnded(RuntimeError):
    """This rank ends because another one, which the message names, has failed or is gone."""


class RankProcess(NamedTuple):
    """The process of a rank."""

    rank: int
    pid: int
    host: str


class Beat(NamedTuple):
    """What one rank said of itself; `processes` is the number of ranks."""

    rank: int
    processes: int
    phase: str
    step: int
    unix: float
    pid: int
    host: str

    @property
    def process(self) -> RankProcess:
        return RankProcess(self.rank, self.pid, self.host)


class Heartbeat(L.Callback, Watchdog):
    """Write this rank's beats and watch the others'; open around the training, and a callback.

    A beat is an activity that begins, a step or a validation batch that ends, and every forward of
    the policy, also a token of the rollout if the policy itself decodes. `limit_s` is the longest
    silence between two of them.
    """

    def __init__(self, run_dir: Path, limit_s: float, *, rank: int = 0, num_ranks: int = 1) -> None:
        Watchdog.__init__(self, limit_s, "")
        self.folder = run_dir / "heartbeat"
        self._rank = rank
        self._num_ranks = num_ranks
        self._phase = "starting"
        self._everyone: frozenset[RankProcess] = frozenset()
        self._gone_since: float | None = None
        self._module: RLModule | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        super().touch()
        self._write()
        # by the clock of the file system, which all ranks share
        self._began = self._file("json").stat().st_mtime
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """End the beats. Raises OtherEnded if another rank has caused this one's error."""
        error: BaseException | None = raised[1]
        cause = None
        together = isinstance(error, EngineError) and error.together
        if isinstance(error, Exception) and not together and self._num_ranks > 1:
            cause = self._cause_in_others(error)
        super().__exit__(*raised)
        self._phase = "ended" if error is None else f"ended in {self._phase}"
        self._write()
        if cause is not None:
            raise OtherEnded(f"rank {self._rank} ends, {cause}") from error

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._refuse_own_folders()
        self._module = module
        module.clock.listen(self._begin)
        module.policy.part("language_model").register_forward_pre_hook(lambda *_: self.touch())

    def _refuse_own_folders(self) -> None:
        """End with one line if a rank does not find what another one has written."""
        everyone = ranks.gather(RankProcess(self._rank, os.getpid(), socket.gethostname()))
        self._everyone = frozenset(everyone)
        until = time.monotonic() + min(SHARED_S, self._limit_s / 2)
        while (unseen := self._unseen(everyone)) and time.monotonic() < until:
            time.sleep(0.1)
        for reader, missed in zip(everyone, ranks.gather(unseen), strict=True):
            if missed:
                writer = missed[0]
                with one_line_errors("vlm_rl.fit", speaks=self._rank == 0):
                    raise ValueError(
                        f"run_dir={self.folder.parent} must be one folder for all ranks, but rank "
                        f"{reader.rank} on {reader.host} does not find there what rank "
                        f"{writer.rank} on {writer.host} writes; give one on a file system that "
                        "all nodes share"
                    )

    def _unseen(self, everyone: list[RankProcess]) -> list[RankProcess]:
        """Return those without a file here, or with a file of another run."""
        seen = {beat.process for beat in read_beats(self.folder)}
        return [process for process in everyone if process not in seen]

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
        """Refresh the file, every second; end if this rank or another one is silent or gone."""
        self._write()
        if self._is_due():
            (self.folder / NOTICE).touch()
            self._end(f"rank {self._rank} has been silent for {self._limit_s:g} s")
        elif _written_after(self.folder / NOTICE, self._began):
            self._end(f"rank {self._rank} ends because another rank is silent")
        elif gone := self._gone_for_long():
            self._put(self.folder / FAILED, gone)
        elif _written_after(self.folder / FAILED, self._began):
            reason = (self.folder / FAILED).read_text(errors="replace")
            warn(f"rank {self._rank} ends, {reason}")
            os._exit(1)  # the main thread waits for the other rank in foreign code

    def _waited_for(self) -> list[int]:
        here = socket.gethostname()
        return [rank.pid for rank in self._everyone if rank.host == here] or [os.getpid()]

    def _gone_for_long(self) -> str | None:
        """Name a rank that is gone for longer than the main thread needs to hear of it.

        gloo raises an error there; NCCL lets it wait.
        """
        gone = [
            beat
            for beat in read_beats(self.folder)
            if beat.process in self._everyone
            and beat.rank != self._rank
            and not beat.phase.startswith("ended")
            and _has_ended(beat)
        ]
        self._gone_since = self._gone_since or time.monotonic() if gone else None
        if self._gone_since is None or time.monotonic() < self._gone_since + GATHER_S:
            return None
        return _last_seen(gone[0])

    def _cause_in_others(self, error: Exception) -> str | None:
        """Say which rank has failed or is gone; None if the fault is this rank's own.

        Either way the reason is in `FAILED` afterwards, where the others read it.
        """
        reason = self.folder / FAILED
        if _written_after(reason, self._began):
            return reason.read_text(errors="replace")
        gone = self._gone() if _may_be_of_a_collective(error) else None
        if gone is None:
            own = f"{type(error).__name__}: {error}"
            self._put(reason, joined(f"rank {self._rank} failed {self._place()}: {own}"))
            return None
        self._put(reason, gone)
        return gone

    def _gone(self) -> str | None:
        """Name the ranks that no longer give a sign of life, and where they were."""
        self._write()
        since = self._file("json").stat().st_mtime
        until = time.monotonic() + GONE_S
        gone: list[Beat] = []
        late = False
        while not gone and not late and (silent := self._silent_since(since)):
            late = time.monotonic() > until
            gone = [b for b in silent if _has_ended(b) or (late and not _is_here(b))]
            time.sleep(0.1)
        return "; ".join(map(_last_seen, gone)) or None

    def _silent_since(self, since: float) -> list[Beat]:
        """Return the beats of other ranks whose files are older."""
        return [
            beat
            for beat in self._beats_of_others()
            if not _written_after(self.folder / f"rank_{beat.rank}.json", since)
        ]

    def _beats_of_others(self) -> list[Beat]:
        """Return the last beats of the other ranks; an earlier start may have had more ranks."""
        beats = read_beats(self.folder)
        return [beat for beat in beats if beat.rank < self._num_ranks and beat.rank != self._rank]

    def _end(self, reason: str) -> None:
        stacks = self._file("stacks.txt")
        with stacks.open("w") as file:
            faulthandler.dump_traceback(file=file)
        warn_all(f"rank {self._rank}:\n{stacks.read_text()}")
        until = time.monotonic() + GATHER_S
        while not self._all_have_written() and time.monotonic() < until:
            time.sleep(0.1)
        super()._end(f"{reason}, {self._place()}; {'; '.join(self._others())}stacks in {stacks}")

    def _all_have_written(self) -> bool:
        files = [self.folder / f"rank_{rank}.stacks.txt" for rank in range(self._num_ranks)]
        return all(_written_after(file, self._began) for file in files)

    def _others(self) -> Iterator[str]:
        """Yield where every other rank was, the one with the longest silence first."""
        for beat in sorted(self._beats_of_others(), key=lambda beat: beat.unix):
            seconds = max(0.0, time.time() - beat.unix)
            yield f"rank {beat.rank} in {beat.phase} of step {beat.step}, {seconds:.0f} s ago"
        if self._num_ranks > 1:
            yield ""

    def _place(self) -> str:
        return f"in {self._phase} of step {self._step()}"

    def _step(self) -> int:
        """Return the step in progress, from 1; 0 before the training."""
        return 0 if self._module is None else self._module.completed_steps + 1

    def _write(self) -> None:
        now = time.time() - self.silent_s
        host = socket.gethostname()
        beat = Beat(self._rank, self._num_ranks, self._phase, self._step(), now, os.getpid(), host)
        self._put(self._file("json"), json.dumps(beat._asdict()))

    def _put(self, target: Path, text: str) -> None:
        with suppress(OSError):  # the checkpoint reports a full disk
            # two threads write, and several ranks
            partial = target.with_suffix(f".{self._rank}.{time.monotonic_ns()}.partial")
            partial.write_text(text)
            partial.replace(target)

    def _file(self, ending: str) -> Path:
        return self.folder / f"rank_{self._rank}.{ending}"


def read_beats(folder: Path) -> list[Beat]:
    """Return the last beat of every rank, in any order; a file that holds none is left out."""
    return [beat for path in folder.glob("rank_*.json") if (beat := _read_beat(path)) is not None]


def _read_beat(path: Path) -> Beat | None:
    try:
        beat = Beat(**read_json(path, dict))
    except (Damaged, TypeError):  # TypeError: other names
        return None
    kinds = Beat.__annotations__
    return beat if all(isinstance(v, kinds[n]) for n, v in beat._asdict().items()) else None


def _may_be_of_a_collective(error: Exception) -> bool:
    """Whether gloo (plain RuntimeError) or NCCL raises it when another rank has left."""
    causes = (error, error.__cause__)  # a part of the run may have met it
    return any(type(cause) is RuntimeError or isinstance(cause, dist.DistError) for cause in causes)


def _last_seen(beat: Beat) -> str:
    return (
        f"rank {beat.rank} is gone (killed? out of memory?), last seen in {beat.phase} of step "
        f"{beat.step}"
    )


def _is_here(beat: Beat) -> bool:
    """Whether the process can be asked for: it is on this machine, which is Linux."""
    return beat.host == socket.gethostname() and Path("/proc/self/stat").exists()


def _has_ended(beat: Beat) -> bool:
    """Whether the process has ended, known at once on the same Linux machine; False elsewhere."""
    return _is_here(beat) and process_start(beat.pid) is None


def _written_after(path: Path, since: float) -> bool:
    try:
        return path.stat().st_mtime > since
    except OSError:
        return False
