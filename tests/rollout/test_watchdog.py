"""A process that hangs is ended, and no other.

Broken on purpose, each seen red: a watchdog that is never touched, never fires or never closes.
"""

import subprocess
import sys

WAITS = """
import time
from vlm_rl.rollout.watchdog import Watchdog
with Watchdog(0.5, "the engine") as dog:
    for _ in range(4):
        time.sleep(0.2)
        dog.touch()
    print("alive", flush=True)
    time.sleep({seconds})
time.sleep(1)  # closed, it no longer counts
print("over", flush=True)
"""


def test_watchdog_ends_a_process_that_is_silent_and_no_other() -> None:
    def run(seconds: float) -> subprocess.CompletedProcess[str]:
        program = WAITS.format(seconds=seconds)
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    fine, hung = run(0.1), run(20)
    assert fine.returncode == 0
    assert fine.stdout.split() == ["alive", "over"]
    assert hung.returncode == 75
    assert hung.stdout.split() == ["alive"]
    assert "the engine has been silent for 0.5 s" in hung.stderr
    assert "resumes from the last checkpoint" in hung.stderr
    assert "time.sleep" in hung.stderr or 'File "<string>"' in hung.stderr  # where it hung
