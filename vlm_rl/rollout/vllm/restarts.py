"""Why vLLM is restarted, and how: every call to an engine goes through `RestartingEngine._run`.

An EngineFault is the only reason for a restart. It is raised when

    vLLM does not start within `startup_timeout_s`        server.py `_await_health`
    vLLM finds no memory to start again after a fault     engine.py `_launch`
    its process has ended                                 server.py `_check_process`
    its server cannot be reached or answers an error      client.py `Http`
    its server is silent for `silence_timeout_s`          client.py `Silence`
    a call in process raises anything but a refusal       engine.py `_vllm`
    the stream of weights breaks                          weight_sender.py
    its caches cannot be emptied                          `_empty_caches` of both engines
    an answer is broken or incomplete                     protocol.py `Vocabulary.group`

Other errors end the run at once, because asking again would not help: weights, prompts or settings
that differ (EngineMismatch), and requests that vLLM refuses. A hang in process ends the run too, by
the watchdog, because nothing can stop a thread.

Weights and forwards of a sharded policy are the work of all ranks together. A rank that restarted
its engine alone, or ended alone, would leave the others waiting. So `agreed` makes the failure of
one rank the failure of all: each counts a restart in a row, and only the engine that failed is
launched again.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from vlm_rl import ranks
from vlm_rl.rollout.engine import Engine
from vlm_rl.rollout.faults import EngineError, EngineFault, EngineGaveUp
from vlm_rl.show.screen import say

T = TypeVar("T")


class RestartingEngine(Engine):
    """An engine that is restarted when it fails, at most `max_restarts` times in a row."""

    def __init__(self, max_restarts: int) -> None:
        self.max_restarts = max_restarts
        self._restarts_in_a_row = 0
        """Restarts since the last answer; equal on all ranks."""

    def _run(self, operation: Callable[[], T], *, after_restart: Callable[[], T]) -> T:
        """Return `operation()`; after each fault restart, then return `after_restart()` instead.

        A restart loads the current weights, so `after_restart` has nothing to do for an operation
        that loads them. Raises EngineGaveUp at the ceiling.
        """
        launches: bool | None = None
        while True:
            try:
                if launches is None:
                    return operation()
                self._bring_up(launches)
                return after_restart()
            except EngineFault as error:
                # the error itself would keep the broken engine in memory
                fault, own = str(error), error.own
            launches = self._launches_after(own)
            self._count_restart(fault, launches)

    def _count_restart(self, fault: str, launches: bool) -> None:
        """Stop the engine if it `launches` again. Raises EngineGaveUp at the ceiling."""
        if launches:
            self._stop()
        if self._restarts_in_a_row == self.max_restarts:
            raise EngineGaveUp(
                f"the rollout engine failed {self.max_restarts + 1} times in a row, last: {fault}"
            )
        self._restarts_in_a_row += 1
        if launches and self._has_engine:
            self.restarts += 1
            say(f"rollout engine: {fault}; restarted ({self.restarts} times so far)")

    @property
    def _has_engine(self) -> bool:
        """Whether this rank runs an engine and feeds it, rather than share that of rank 0."""
        return True

    def _launches_after(self, own: bool) -> bool:
        """Whether a fault needs another launch on this rank; `own`: it is this rank's fault."""
        return own

    @abstractmethod
    def _bring_up(self, launches: bool) -> None:
        """Launch if this rank `launches`, then load the current weights. Raises EngineFault."""

    @abstractmethod
    def _stop(self) -> None:
        """End vLLM, even if it hangs; do nothing if none runs."""


def agreed(operation: Callable[[], T]) -> T:
    """Return the result of this rank's `operation` once it has succeeded on every rank.

    If it raises EngineError on some ranks, all of them raise the gravest of these: an EngineFault
    only if there is nothing else. A rank whose engine fails must still go through whatever is
    collective in `operation`.
    """
    if ranks.world_size() == 1:
        return operation()
    results: list[T] = []
    failure: tuple[type[EngineError], str] | None = None
    try:
        results.append(operation())
    except EngineError as error:
        failure = type(error), str(error)
    failures = [(rank, *one) for rank, one in enumerate(ranks.gather(failure)) if one is not None]
    if not failures:
        return results[0]
    rank, kind, text = min(failures, key=lambda one: issubclass(one[1], EngineFault))
    common = kind(f"rank {rank}: {text}")
    common.together = True
    if isinstance(common, EngineFault):
        common.own = failure is not None
    raise common
