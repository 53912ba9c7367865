"""The checking processes: bounded, replaceable, usable from any thread, never left behind.

Broken on purpose, each seen red: a process out of memory that ends like any other death; waits for
a core that count on the clock.
"""

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.support.patience import at_most_cpu_s, runs, until
from tests.support.starving import busy_core, starve
from vlm_rl.records import Verdict
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.pool import CheckerPool

HALF = (Gold(r"\frac{\sqrt{3}}{3}", "latex"), r"\frac{1}{\sqrt{3}}")
_SINES = "+".join(["2^{-4000}", *(rf"\sin {n}" for n in range(1, 120))])
EXPANDING = (Gold(_SINES, "latex"), f"{_SINES}+1-1")
"""Equal, which takes 16,000 bits of 119 sines to see: more than the time limit of these tests."""
_FEWER = "+".join(["2^{-4000}", *(rf"\sin {n}" for n in range(1, 5))])
SHORTER = (Gold(_FEWER, "latex"), f"{_FEWER}+1-1")
"""Equal, which takes a tenth of a second to see."""


@pytest.fixture(scope="module")
def pool():
    with CheckerPool(timeout_s=0.3) as pool:
        yield pool


def verdicts(pool, questions):
    return [check.verdict for check in pool.check(questions)]


def test_five_verdicts_are_told_apart(pool):
    questions = [
        HALF,
        (HALF[0], "2"),
        (HALF[0], r"\frac{"),
        EXPANDING,
        (Gold(r"\frac{", "latex"), "1"),
    ]
    assert verdicts(pool, questions) == list(Verdict)


@pytest.mark.parametrize(
    "tower", ["9^{9^{9^{9}}}", "(2+3)^{(9999)^{(99)}}", "((9^{999})^{999})^{999}"]
)
def test_towers_are_bounded_in_time_and_never_correct(pool, tower):
    verdicts(pool, [HALF])
    with at_most_cpu_s(10.0):  # it takes a second; unbounded, hours
        (verdict,) = verdicts(pool, [(Gold("5", "number"), tower)])
    assert verdict is not Verdict.CORRECT
    assert verdicts(pool, [HALF]) == [Verdict.CORRECT]


def test_memory_limit_holds(pool):
    verdicts(pool, [HALF])
    (pid,) = pool.pids
    limit, _ = psutil.Process(pid).rlimit(psutil.RLIMIT_AS)
    assert limit == 1024 << 20


def test_pool_works_from_a_thread(pool):
    given = []
    thread = threading.Thread(target=lambda: given.extend(verdicts(pool, [HALF, EXPANDING])))
    thread.start()
    thread.join()
    assert given == [Verdict.CORRECT, Verdict.TIMEOUT]


def test_threads_share_a_pool_without_mixing_answers(pool):
    rows = {}

    def ask(k):
        gold = Gold(rf"{k}\sqrt{{3}}", "latex")
        rows[k] = verdicts(pool, [(gold, rf"\sqrt{{{3 * j * j}}}") for j in range(1, 9)])

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, row in rows.items():
        assert [j for j, v in enumerate(row, 1) if v is Verdict.CORRECT] == [k]
    assert len(rows) == 4


def test_alarm_of_the_caller_still_fires_and_keeps_its_handler(pool):
    fired = []

    def handler(number, frame):
        fired.append(number)

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        verdicts(pool, [HALF])
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert verdicts(pool, [EXPANDING, HALF]) == [Verdict.TIMEOUT, Verdict.CORRECT]
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert fired == [signal.SIGALRM]


def test_interrupted_check_leaves_no_stale_reply(pool):
    class Interrupt(Exception):
        pass

    def handler(number, frame):
        raise Interrupt

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        verdicts(pool, [HALF])
        _stop(pool)  # so that the check lasts until the alarm, however late that is
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Interrupt):
            verdicts(pool, [EXPANDING])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert pool.pids == []
    assert verdicts(pool, [(HALF[0], "2")]) == [Verdict.WRONG]


@pytest.mark.parametrize(
    ("number", "verdict"),
    [(signal.SIGKILL, Verdict.ERROR), (signal.SIGPROF, Verdict.TIMEOUT)],  # the second: its own
)
def test_killed_process_gives_its_verdict_and_the_pool_goes_on(pool, number, verdict):
    verdicts(pool, [HALF])
    pid = _stop(pool)  # so that it cannot reach its limit before
    killer = threading.Thread(target=_kill_when_busy, args=(pool, number))
    killer.start()
    assert verdicts(pool, [EXPANDING, HALF]) == [verdict, Verdict.CORRECT]
    killer.join()
    assert pool.pids != [pid]


def test_process_killed_while_idle_is_replaced_silently(pool):
    verdicts(pool, [HALF])
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    until(lambda: not runs(pid))
    assert verdicts(pool, [HALF]) == [Verdict.CORRECT]


def test_equal_questions_are_checked_once(pool):
    verdicts(pool, [HALF])
    before = _seconds_of_ended_children()
    assert verdicts(pool, [EXPANDING] * 8) == [Verdict.TIMEOUT] * 8
    pool.close()
    assert _seconds_of_ended_children() - before < 6.0  # eight checks take eight, and their starts


def test_plain_answers_start_no_process_and_take_milliseconds(pool):
    pool.close()
    questions = [(Gold(str(i), "number"), str(i + j)) for i in range(16) for j in range(8)]
    start = time.process_time()
    given = verdicts(pool, questions)
    assert time.process_time() - start < 0.5
    assert given.count(Verdict.CORRECT) == 16
    assert pool.pids == []


def test_several_workers_answer_in_order():
    questions = [
        (Gold(rf"{k}\sqrt{{3}}", "latex"), rf"\sqrt{{{3 * k * k + k % 2}}}") for k in range(1, 13)
    ]
    with CheckerPool(workers=2) as pool:
        given = verdicts(pool, questions)
        assert len(pool.pids) == 2
    assert given == [Verdict.WRONG, Verdict.CORRECT] * 6


def test_close_leaves_no_process():
    pool = CheckerPool()
    verdicts(pool, [HALF])
    pids = pool.pids
    pool.close()
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_forgotten_pool_leaves_no_process():
    pool = CheckerPool()
    verdicts(pool, [HALF])
    (pid,) = pool.pids
    del pool
    gc.collect()
    assert not psutil.pid_exists(pid)


def test_stopped_process_is_given_up_at_the_deadline():
    with CheckerPool(timeout_s=0.3) as pool:
        verdicts(pool, [HALF])
        _stop(pool)  # uses no computing time at all
        assert verdicts(pool, [HALF]) == [Verdict.TIMEOUT]


def test_starved_process_is_not_given_up(monkeypatch):
    """It waits for a core longer than the limit on the clock."""
    monkeypatch.setattr("vlm_rl.verification.pool.CLOCK_FACTOR", 1.0)
    with busy_core(), CheckerPool(timeout_s=2.0) as pool:
        verdicts(pool, [HALF])
        starve(pool.pids[0])
        began = time.monotonic()
        assert verdicts(pool, [SHORTER]) == [Verdict.CORRECT]
        if time.monotonic() - began <= 2.0:
            pytest.skip("the kernel has given it a core all the same, so this shows nothing")


SCRIPT = """
import os, signal, sys, threading, time
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.pool import CheckerPool
pool = CheckerPool(timeout_s=1000)
pool.check([(Gold(r"2\\sqrt{3}", "latex"), r"\\sqrt{12}")])
print(*pool.pids, flush=True)
if sys.argv[1] == "busy":
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    sines = "+".join(["2^{-4000}", *(rf"\\sin {n}" for n in range(1, 120))])
    while True:
        pool.check([(Gold(sines, "latex"), f"{sines}+1-1")])
if sys.argv[1] == "idle":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["exit", "idle", "busy"])
def test_processes_end_with_their_parent_however_it_ends(end):
    done = subprocess.run([sys.executable, "-c", SCRIPT, end], stdout=subprocess.PIPE, text=True)
    assert done.returncode == (0 if end == "exit" else -signal.SIGKILL)
    (pid,) = map(int, done.stdout.split())
    until(lambda: not runs(pid))


def _seconds_of_ended_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _stop(pool):
    (pid,) = pool.pids
    os.kill(pid, signal.SIGSTOP)
    return pid


def _kill_when_busy(pool, number):
    (checker,) = pool._checkers
    until(lambda: checker.index is not None)
    os.kill(checker.process.pid, number)
    os.kill(checker.process.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout_s": 0}, "timeout_s must be a positive"),
        ({"timeout_s": float("nan")}, "timeout_s must be a positive"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"memory_mb": 10}, "memory_mb must be at least"),
    ],
)
def test_bad_limits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CheckerPool(**arguments)


def test_checker_that_cannot_start_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="died at its start"):
        verdicts(CheckerPool(), [HALF])
