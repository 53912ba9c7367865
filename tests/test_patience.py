"""What ends a test: a hang or a spin; not a busy machine, nor a long wait for something that works.

Each is a real run of pytest with small limits. Broken on purpose, each seen red: processes that are
not ended -> hang; work that is no progress -> works; waits for a core that count -> starved.
Without a limit of CPU time the spin does not end.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import Stuck, at_most_cpu_s, cpu_s, until
from tests.support.places import REPOSITORY
from tests.support.starving import busy_core

SLEEP = "import time; print('begun', flush=True); time.sleep(1000)"


def outcome(folder: Path, body: str) -> tuple[int, str]:
    """Run one test with this body. Returns the status of pytest and what was printed."""
    lines = "\n    ".join(["def test_it():", *body.strip().splitlines()])
    (folder / "test_it.py").write_text(lines)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.patience", "-s"]
    command += ["-o", "quiet_s=1", "-o", "cpu_s=2", f"--rootdir={folder}", str(folder)]
    own = {"PYTHONPATH": str(REPOSITORY), "PYTHONFAULTHANDLER": "1"}
    own |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # imports for nothing
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def test_hang_shows_the_stacks_of_its_processes_and_ends_them(tmp_path: Path) -> None:
    """The test itself may go on then, and be red anyway."""
    status, text = outcome(
        tmp_path,
        f"""
import subprocess, sys
done = subprocess.run([sys.executable, "-c", {SLEEP!r}], capture_output=True, text=True)
print("the child ended with", done.returncode, done.stderr)
""",
    )
    assert status == 1
    assert "Stuck: it hangs: nothing has moved for 1 s" in text
    assert "the child ended with -6 Fatal Python error: Aborted" in text
    assert 'File "<string>", line 1 in <module>' in text


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("import threading; threading.Lock().acquire() and threading.Event().wait()", "it hangs"),
        ("while True: pass", "it spins"),
    ],
)
def test_main_thread_that_does_not_get_on_is_interrupted(
    tmp_path: Path, body: str, wrong: str
) -> None:
    status, text = outcome(tmp_path, body)
    assert status == 1
    assert f"Stuck: {wrong}" in text


def test_what_works_may_take_longer_than_the_limit_of_a_hang(tmp_path: Path) -> None:
    works = "import time\nwhile time.process_time() < 1.5: pass"
    run = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {works!r}])"
    status, text = outcome(tmp_path, run)
    assert status == 0, text


def test_cpu_time_of_processes_that_have_ended_counts(tmp_path: Path) -> None:
    works = "import time\nwhile time.process_time() < 0.6: pass"
    status, text = outcome(
        tmp_path,
        f"""
import subprocess, sys
for _ in range(8):
    subprocess.run([sys.executable, "-c", {works!r}])
""",
    )
    assert status == 1
    assert "Stuck: it spins" in text


def test_starved_process_does_not_hang(tmp_path: Path) -> None:
    """It gets a thirtieth of a core, which would be too little to count as work."""
    with busy_core():
        status, text = outcome(
            tmp_path,
            """
import time
from tests.support.starving import starve
starve()
began = time.thread_time()
while time.thread_time() < began + 0.1: pass
""",
        )
    assert status == 0, text


def test_waiting_for_a_condition_ends_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.patience.QUIET_S", 0.5)
    monkeypatch.setattr("tests.support.patience.LOOK_S", 0.1)
    left = iter([False] * 20 + [True])
    until(lambda: next(left))
    with pytest.raises(Stuck, match="it hangs"):
        until(lambda: False)


def test_cpu_time_of_all_processes_counts() -> None:
    before = cpu_s()
    # the kernel counts in hundredths, of each process for itself
    spin = "import time\nwhile time.process_time() < 0.6: pass"
    with pytest.raises(AssertionError), at_most_cpu_s(0.4):
        subprocess.run([sys.executable, "-c", spin])
    assert cpu_s() - before >= 0.5
