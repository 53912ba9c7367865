"""A run that is told to end saves first: SIGTERM, SIGUSR1 and Ctrl-C.

The weights change in the update of a step only. Everywhere else, in the middle of a rollout too,
they are those of the last complete step, so that a single process stops there and then; in an
update it stops after it. Several processes stop together, whichever of them has heard it, before or
after a step or before a batch of the validation: one of them alone would leave the others waiting
in a collective. A second signal ends the process at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from vlm_rl import ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""SIGUSR1: `sbatch --signal=USR1@120` sends it before the time is over."""

CLOSED = ("update", "report", "checkpoint")
"""The stages in which the run's state changes or is written; the others only read it."""


class Preempted(BaseException):
    """Not an Exception: a library that goes on after any error must not go on after this."""

    def __init__(self, number: signal.Signals, phase: str) -> None:
        super().__init__(f"{number.name} in {phase}")
        self.signal = number
        self.phase = phase


class Preemption(L.Callback):
    """Raises Preempted at the next place where the state is that of a complete step."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._signal: signal.Signals | None = None
        self._phase = self._heard_in = "the start"
        self._is_open = True
        self._is_alone = True

    def join(self, num_processes: int) -> None:
        """From now on stop only together with the others. Until they have met a signal ends the
        process as if it did not listen: it waits for them where Python does not hear."""
        self._is_alone = num_processes == 1
        self._is_open = self._is_alone
        if not self._is_alone and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._take()  # they have met

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals; afterwards they mean what they meant before."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread only
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self._take()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_sanity_check_start(self, trainer: L.Trainer, module: Any) -> None:
        self._take()  # the trainer has put its own in place, which do not save

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self._take()  # a run that goes on has no sanity check

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        module.clock.listen(self._begin)

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self._leave_together()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._phase = "the pause between steps"
        self._leave_together()

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._leave_together()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._is_open = False  # its numbers are written after the last one

    def _begin(self, stage: str) -> None:
        self._is_open = self._is_alone and stage not in CLOSED
        if stage != "checkpoint":
            self._phase = f"the {stage}"
        self._leave()

    def _leave(self) -> None:
        if self._signal is not None and self._is_open:
            self._is_open = False
            raise Preempted(self._signal, self._heard_in)

    def _leave_together(self) -> None:
        """At the same place in every process."""
        if self._is_alone:
            return  # the next stage that may be left raises it
        for rank, (number, place) in enumerate(ranks.gather((self._signal, self._heard_in))):
            if number is not None:
                raise Preempted(number, f"{place} of rank {rank}")

    def _take(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:
            _hear_in_child(number)
        elif self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)
        else:
            self._signal, self._heard_in = signal.Signals(number), self._phase
            self._leave()


def _hear_in_child(number: int) -> None:
    """A worker has inherited the handler. Ctrl-C reaches it too, but its parent ends it."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
