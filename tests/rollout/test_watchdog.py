"""A process that hangs is ended, and no other.

Broken on purpose, each seen red: a watchdog that is never touched, never fires or never closes, or
that counts the waits for a core, or is touched by any thread.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from tests.support.starving import busy_core, starve
from vlm_rl.rollout.watchdog import Watchdog, touch_all


def ended(work: Callable[[], None], folder: Path) -> tuple[int, str, str]:
    """Do `work` in a process of its own. Returns its status, what it printed and its errors."""
    out, err = folder / "out", folder / "err"
    process = os.fork()
    if process == 0:
        sys.stdout, sys.stderr = out.open("w"), err.open("w")
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # a forked child must not return into its parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, out.read_text(), err.read_text()


def wait_inside(seconds: float) -> None:
    with Watchdog(0.5, "the engine") as dog:
        for _ in range(4):
            time.sleep(0.2)
            dog.touch()
        print("alive", flush=True)
        time.sleep(seconds)
    time.sleep(1)  # closed, it no longer counts
    print("over")


def another_thread_moves() -> None:
    with Watchdog(0.5, "the engine"):
        Thread(target=keep_touching, daemon=True).start()
        time.sleep(1000)


def keep_touching() -> None:
    while True:
        touch_all()
        time.sleep(0.05)


def work_inside() -> None:
    starve()
    used = time.thread_time()
    with Watchdog(0.5, "the engine"):
        while time.thread_time() < used + 0.1:
            pass
        with Watchdog(60.0, "another one"):
            while time.thread_time() < used + 0.12:
                pass


def test_watchdog_ends_a_process_that_is_silent_and_no_other(tmp_path: Path) -> None:
    assert ended(lambda: wait_inside(0.1), tmp_path)[:2] == (0, "alive\nover\n")
    status, printed, errors = ended(lambda: wait_inside(1000), tmp_path)
    assert (status, printed) == (75, "alive\n")
    assert "the engine has been silent for 0.5 s" in errors
    assert "resumes from the last checkpoint" in errors
    assert "in wait_inside" in errors  # where it hung


def test_thread_that_moves_does_not_hide_that_another_hangs(tmp_path: Path) -> None:
    status, _, errors = ended(another_thread_moves, tmp_path)
    assert status == 75
    assert "in another_thread_moves" in errors


def test_starved_process_is_not_silent(tmp_path: Path) -> None:
    """It works for several times the limit on the clock."""
    with busy_core():
        began = time.monotonic()
        status, _, errors = ended(work_inside, tmp_path)
    assert status == 0, errors
    assert time.monotonic() - began > 1.5, "otherwise this shows nothing"
