"""Check answers in processes, each of which may be killed at any time.

These are plain subprocesses over pipes, not multiprocessing, whose spawned children would import
the trainer's main module, and with it torch. A process counts its own CPU time and ends when that
is used up. A limit on the clock, kept here, holds whatever happens; seconds for which the process
waits for a core do not count, so that no verdict depends on how busy the machine is. No alarm of
the caller is touched, no thread is started, and a lock makes the pool usable from any thread.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import vlm_rl
from vlm_rl.processes.stopwatch import Stopwatch
from vlm_rl.records import Verdict
from vlm_rl.verification.algebra import NeedsAlgebra
from vlm_rl.verification.checker import READY
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.limits import CLOCK_FACTOR, TIMED_OUT
from vlm_rl.verification.matching import FULL_MATCH, decide

_START_S = 120.0  # imports take under a second; a machine swapping or on a network disk is slow
_LOOK_S = 1.0

Question = tuple[Gold, str]
"""A gold and the answer that a completion gave."""


class Check(NamedTuple):
    """The verdict on an answer and the rule that decided, such as `choice: letter` or `timeout`."""

    verdict: Verdict
    rule: str


@dataclass(frozen=True)
class Reading:
    """What was read in a completion. `answer` is None if there was no answer slot, or several that
    differ; `rule` says what decided the verdict."""

    answer: str | None
    verdict: Verdict
    rule: str


def read_answers(asked: Sequence[tuple[Gold, Sequence[str]]], pool: "CheckerPool") -> list[Reading]:
    """Check what was answered: nothing is unparsable, answers that differ in value are wrong.

    Several spellings of one value are one answer. Each must be equal to the first of them, taken as
    a gold without tolerance.
    """
    pairs = [(_as_gold(given[0], gold), other) for gold, given in asked for other in given[1:]]
    equal = iter(pool.check(pairs))
    agreed = [
        (gold, given[-1])
        if given and {next(equal).verdict for _ in given[1:]} <= {Verdict.CORRECT}
        else None
        for gold, given in asked
    ]
    checks = iter(pool.check([question for question in agreed if question]))
    return [
        Reading(question[1], *next(checks)) if question else _without_asking(given)
        for (_, given), question in zip(asked, agreed, strict=True)
    ]


def _as_gold(answer: str, gold: Gold) -> Gold:
    """Return an answer as a gold for others. It is a text where the gold is a pattern: a policy
    must not write patterns."""
    kind = "text" if gold.answer_type == FULL_MATCH else gold.answer_type
    return replace(gold, answer=answer, answer_type=kind, tolerance=())


def _without_asking(given: Sequence[str]) -> Reading:
    if given:
        return Reading(None, Verdict.WRONG, f"hedge: {len(given)} different answers")
    return Reading(None, Verdict.UNPARSABLE, "no answer slot")


class CheckerPool:
    """Up to `workers` processes that check answers.

    A question gets `timeout_s` seconds of CPU time and `memory_mb` of memory. On the clock it gets
    thirty times those seconds, besides those for which its process waits for a core: only one that
    was stopped reaches them. Beyond its limits a process is killed and replaced. Processes start
    with the first question that needs one.
    """

    def __init__(self, *, workers: int = 1, timeout_s: float = 2.0, memory_mb: int = 1024) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if not 0 < timeout_s < float("inf"):
            raise ValueError(f"timeout_s must be a positive number of seconds, got {timeout_s}")
        if memory_mb < 512:
            raise ValueError(f"memory_mb must be at least 512 for its libraries, got {memory_mb}")
        self._command = (
            *(sys.executable, "-m", "vlm_rl.verification.checker"),
            *(str(timeout_s), str(memory_mb)),
        )
        self._workers = workers
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._checkers: list[_Checker] = []
        self._finalizer = weakref.finalize(self, _kill_all, self._checkers)

    def check(self, questions: Sequence[Question]) -> list[Check]:
        """Return one check per question; equal questions are checked once.

        Exact arithmetic is done here, and only what it cannot decide goes to a process. Raises
        RuntimeError if processes cannot be started.
        """
        checks: dict[Question, Check] = {}
        hard: list[Question] = []
        for question in dict.fromkeys(questions):
            try:
                checks[question] = _check_of(*decide(*question, numeric=False))
            except NeedsAlgebra:
                hard.append(question)
        if hard:
            with self._lock:
                checks.update(zip(hard, self._ask(hard), strict=True))
        return [checks[question] for question in questions]

    def close(self) -> None:
        """End all processes; a later question starts new ones."""
        with self._lock:
            _kill_all(self._checkers)

    def __enter__(self) -> "CheckerPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of the running checkers."""
        return [checker.process.pid for checker in self._checkers]

    def _ask(self, questions: Sequence[Question]) -> list[Check]:
        checks: dict[int, Check] = {}
        waiting = list(enumerate(questions))[::-1]
        try:
            while len(checks) < len(questions):
                self._fill(len(waiting))
                for checker in self._checkers:
                    if checker.idle and waiting:
                        checker.ask(*waiting.pop(), self._timeout_s)
                checks.update(self._collect())
        finally:
            # an exception from a signal handler or Ctrl-C leaves replies that nobody will read
            self._drop(*(checker for checker in self._checkers if checker.index is not None))
        return [checks[index] for index in range(len(questions))]

    def _fill(self, num_waiting: int) -> None:
        """Drop checkers that died idle, and start as many as have work."""
        ended = [checker for checker in self._checkers if checker.process.poll() is not None]
        self._drop(*(checker for checker in ended if checker.idle))
        num_idle = sum(checker.index is None for checker in self._checkers)
        for _ in range(min(self._workers - len(self._checkers), num_waiting - num_idle)):
            self._checkers.append(_Checker(self._command))

    def _collect(self) -> dict[int, Check]:
        """Wait for the next reply or end, or a second, and return the questions settled by then."""
        pending = [checker for checker in self._checkers if not checker.idle]
        with selectors.DefaultSelector() as selector:
            for checker in pending:
                selector.register(checker.output, selectors.EVENT_READ, checker)
            readable = {key.data for key, _ in selector.select(_LOOK_S)}
        settled: dict[int, Check] = {}
        for checker in pending:
            if checker in readable and (reply := checker.read()):
                settled.update(checker.settle(reply))
            elif checker in readable or checker.overdue:
                settled.update(self._lose(checker, overdue=checker not in readable))
        return settled

    def _lose(self, checker: "_Checker", *, overdue: bool) -> dict[int, Check]:
        self._drop(checker)
        if not checker.started:
            raise RuntimeError(
                f"an answer checker {'took too long to start' if overdue else 'died at its start'} "
                f"(its own message is above); try it: {' '.join(self._command)}"
            )
        assert checker.index is not None, "an idle checker is not waited for"
        if overdue or checker.process.returncode == -TIMED_OUT:
            return {checker.index: Check(Verdict.TIMEOUT, "timeout")}
        return {checker.index: Check(Verdict.ERROR, "checker died")}

    def _drop(self, *checkers: "_Checker") -> None:
        for checker in checkers:
            self._checkers.remove(checker)
            checker.kill()


class _Checker:
    """One process: starting until it says that it is ready, then idle or busy with a question.

    `index` is the number of that question.
    """

    def __init__(self, command: Sequence[str]) -> None:
        # run beside the package, so that it can be imported whether it is installed or not
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(vlm_rl.__file__).parents[1],
            process_group=0,  # Ctrl-C at the terminal is for the parent, which ends it
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._input = self.process.stdin
        self.output = self.process.stdout
        self.started = False
        self.index: int | None = None
        self._limit_s = _START_S
        self._busy = Stopwatch(lambda: [self.process.pid], every_s=_LOOK_S)

    @property
    def idle(self) -> bool:
        return self.started and self.index is None

    @property
    def overdue(self) -> bool:
        return self._busy.look() > self._limit_s

    def ask(self, index: int, question: Question, timeout_s: float) -> None:
        gold, prediction = question
        self.index = index
        self._limit_s = timeout_s * CLOCK_FACTOR
        self._busy.restart()
        with contextlib.suppress(BrokenPipeError):  # it died: seen when its output is read
            self._input.write(json.dumps([asdict(gold), prediction]).encode() + b"\n")
            self._input.flush()

    def read(self) -> str:
        """Return the reply that is there, empty if the process has ended.

        A reply is one short line, which a pipe delivers whole.
        """
        return os.read(self.output.fileno(), 1000).decode().strip()

    def settle(self, reply: str) -> dict[int, Check]:
        if not self.started:
            assert reply == READY, f"a checker starts with {READY!r}, not {reply!r}"
            self.started = True
            return {}
        assert self.index is not None, "only a busy checker replies"
        settled = {self.index: _check_of(*json.loads(reply))}
        self.index = None
        return settled

    def kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):  # of a half-written question
            self._input.close()
        self.output.close()
        self.process.wait()


def _check_of(outcome: str, rule: str) -> Check:
    return Check(Verdict(outcome), rule)


def _kill_all(checkers: list[_Checker]) -> None:
    while checkers:
        checkers.pop().kill()
