"""Call a function of the user's own in a process, which may be killed when it hangs."""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

from vlm_rl.processes.stopwatch import Stopwatch
from vlm_rl.rewards import own_function
from vlm_rl.rewards.own_function import Asked, OwnFunction

PATIENCE = 3
"""After so many calls in a row that hang or end the process, the function is not called further."""
_START_S = 120.0  # imports take seconds; a machine swapping or on a network disk is slow
_LOOK_S = 1.0


class Failure(NamedTuple):
    """Why there is no number for a completion. `is_late` if that took too long."""

    reason: str
    is_late: bool = False


class OwnProcess:
    """The process of a function; it starts with the first question.

    A call gets `timeout_s` seconds, not counting those for which it waits for a core. Beyond them
    the process is killed, the call has failed, and the next one is made in a new process.
    """

    def __init__(self, function: OwnFunction, timeout_s: float) -> None:
        self._function, self._timeout_s = function, timeout_s
        self._lock = threading.Lock()
        self._running: list[_Child] = []
        self._finalizer = weakref.finalize(self, _kill_all, self._running)

    def answers(self, asked: Asked) -> list[float | Failure]:
        """Return one answer for each completion, one group after the other.

        Raises RuntimeError if the process does not start, ValueError for values that fit no
        completions.
        """
        sizes = self._function.sizes(asked[1])
        answers: list[float | Failure] = []
        with self._lock:
            replies = list(self._replies(pickle.dumps(asked), len(sizes)))
        last = Failure(f"not called: the {PATIENCE} calls before hung or ended its process")
        replies += [last] * (len(sizes) - len(replies))
        for reply, size in zip(replies, sizes, strict=True):
            if isinstance(reply, Failure):
                answers += [reply] * size
            else:
                answers += [Failure(a) if isinstance(a, str) else a for a in reply]
        return answers

    def close(self) -> None:
        """End the process; a later question starts a new one."""
        with self._lock:
            _kill_all(self._running)

    def _replies(self, asked: bytes, num_calls: int) -> Iterator[list[float | str] | Failure]:
        done = lost = 0
        try:
            while done < num_calls and lost < PATIENCE:
                child = self._asked(done, asked)
                while done < num_calls and self._running:
                    reply = child.reply(self._timeout_s)
                    if isinstance(reply, str):
                        raise ValueError(f"{self._function.place}: {reply}")
                    lost = lost + 1 if isinstance(reply, Failure) else 0
                    done += 1
                    if lost:
                        _kill_all(self._running)
                    yield reply
        finally:
            if done < num_calls:  # nobody will read what it still has to say
                _kill_all(self._running)

    def _asked(self, first: int, asked: bytes) -> "_Child":
        """Return the process, new if need be, when it has read what it is asked."""
        if self._running and self._running[0].process.poll() is not None:
            _kill_all(self._running)  # it ended while nothing was asked
        if not self._running:
            self._running.append(_Child(self._function))
        child = self._running[0]
        child.ask(first, asked)
        if isinstance(ready := child.reply(_START_S), Failure):
            raise RuntimeError(
                f"the process of {self._function.place} did not start: {ready.reason}; its own "
                "message is above"
            )
        return child


class _Child:
    """One process: it says when it has read what it is asked, then makes the calls."""

    def __init__(self, function: OwnFunction) -> None:
        asks, own_asks = os.pipe()
        own_replies, replies = os.pipe()
        name, file = function.name, str(function.file or "")
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            # -P: the folder of that file holds modules that have names of the standard library's
            [sys.executable, "-P", own_function.__file__, str(asks), str(replies), name, file],
            stdin=subprocess.DEVNULL,
            pass_fds=(asks, replies),
            env={**os.environ, "PYTHONPATH": paths},
            process_group=0,  # Ctrl-C at the terminal is for the trainer, which ends it
        )
        os.close(asks)
        os.close(replies)
        self._asks = Connection(own_asks, readable=False)
        self._replies = Connection(own_replies, writable=False)

    def ask(self, first: int, asked: bytes) -> None:
        """Ask for all calls from the `first` on."""
        with contextlib.suppress(BrokenPipeError):  # it died: seen when a reply is awaited
            self._asks.send_bytes(str(first).encode())
            self._asks.send_bytes(asked)

    def reply(self, limit_s: float) -> list[float | str] | str | Failure:
        """Return the next reply, a text if it does not fit; Failure after `limit_s` or its end."""
        look_s = min(_LOOK_S, limit_s / 2)
        clock = Stopwatch(lambda: [self.process.pid], every_s=look_s)
        while not self._replies.poll(look_s):
            if clock.look() > limit_s:
                return Failure(f"it took more than {limit_s:g} s", is_late=True)
        try:
            said: list[float | str] | str = pickle.loads(self._replies.recv_bytes())
        except EOFError:
            return Failure(f"its process ended{self._status()}")
        return said

    def _status(self) -> str:
        try:
            return f" with status {self.process.wait(_LOOK_S)}"
        except subprocess.TimeoutExpired:  # it has closed its pipe and lives on
            return ""

    def kill(self) -> None:
        self.process.kill()
        self._asks.close()
        self._replies.close()
        self.process.wait()


def _kill_all(running: list[_Child]) -> None:
    while running:
        running.pop().kill()
