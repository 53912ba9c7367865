"""Save before a run ends by SIGTERM, SIGUSR1, SIGHUP or Ctrl-C.

The weights change only in the update of a step. Everywhere else, also in the middle of a rollout,
they are those of the last complete step. So a single rank stops at once, or after the update.
Several ranks stop together, whichever of them received the signal: before or after a step, or
before a batch of the validation. One that stopped alone would leave the others waiting in a
collective. A second signal ends the process at once, but for SIGHUP, which shell and kernel both
send when a terminal closes.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from vlm_rl import ranks
from vlm_rl.run import starting

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
"""`sbatch --signal=USR1@120` sends SIGUSR1 two minutes before the time is over. Under nohup SIGHUP
is ignored, and stays so."""

UNINTERRUPTED = ("update", "report", "checkpoint")
"""Activities in which the run's state changes or is written; the others only read it."""


class Preempted(BaseException):
    """A signal has stopped the run; not an Exception, so that no library catches it as an error."""

    def __init__(self, number: signal.Signals, phase: str) -> None:
        super().__init__(f"{number.name} in {phase}")
        self.signal = number
        self.phase = phase


class Preemption(L.Callback):
    """Raise Preempted at the next place where the state is that of a complete step."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._signal: signal.Signals | None = None
        self._phase = self._heard_in = "the start"
        self._may_stop = True
        self._is_alone = True
        ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._signals = SIGNALS[:-1] if ignores_hangup else SIGNALS
        self._waiting: _Waiting | None = None

    def join(self, num_ranks: int, end: Callable[[Preempted], object]) -> None:
        """Stop only together with the other ranks from now on.

        Until the process group exists, a signal makes a thread call `end`, which must end the
        process.
        """
        self._is_alone = num_ranks == 1
        self._may_stop = self._is_alone
        if not self._is_alone and threading.current_thread() is threading.main_thread():
            self._waiting = _Waiting(self._signals, end)

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        # before the heartbeat listens: a signal sent for what a beat says must find it so
        module.clock.listen(self._begin)
        self._met()

    def _met(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside, and restore the earlier handlers afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread only
            return
        before = {number: signal.getsignal(number) for number in self._signals}
        self._handle_signals()
        try:
            yield
        finally:
            starting.over()
            self._met()
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_sanity_check_start(self, trainer: L.Trainer, module: Any) -> None:
        self._handle_signals()  # the Trainer has installed its own handlers, which do not save

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self._handle_signals()  # a resumed run has no sanity check

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self._stop_together()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._phase = "the pause between steps"
        self._stop_together()

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._stop_together()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._may_stop = False  # after the last batch its numbers are written

    def _begin(self, activity: str) -> None:
        self._may_stop = self._is_alone and activity not in UNINTERRUPTED
        if activity != "checkpoint":
            self._phase = f"the {activity}"
        self._stop()

    def _stop(self) -> None:
        if self._signal is not None and self._may_stop:
            self._may_stop = False
            raise Preempted(self._signal, self._heard_in)

    def _stop_together(self) -> None:
        """Stop if any rank has received a signal; every rank calls this at the same place."""
        if self._is_alone:
            return  # the next activity that may be interrupted raises it
        for rank, (number, phase) in enumerate(ranks.gather((self._signal, self._heard_in))):
            if number is not None:
                raise Preempted(number, f"{phase} of rank {rank}")

    def _handle_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:
            _hear_in_child(number)
        elif self._signal is not None:
            if number == signal.SIGHUP:
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)
        else:
            self._signal, self._heard_in = signal.Signals(number), self._phase
            self._stop()


class _Waiting:
    """Calls `end` at a signal, in a thread, while the main thread waits for the other ranks.

    It waits in foreign code, where Python runs no handler; but the C part of one rings a bell.
    """

    def __init__(self, signals: tuple[signal.Signals, ...], end: Callable[[Preempted], object]):
        self._signals, self._end = signals, end
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        signal.set_wakeup_fd(self._bell.fileno())
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self._ear:
            while heard := self._ear.recv(1):
                if heard[0] in self._signals:
                    self._end(Preempted(signal.Signals(heard[0]), "the start"))

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._bell.close()


def _hear_in_child(number: int) -> None:
    """Let a worker, which inherits the handler, die by the signal; after Ctrl-C its parent ends
    it."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
