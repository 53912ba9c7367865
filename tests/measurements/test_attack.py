"""A few attacks of each kind; `python -m measurements.attack` tries all of them.

Broken on purpose, each seen red: a status that docs/runs.md does not name, a traceback on the
screen, a run that ends well though an engine lied.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from measurements.attacks.ground import Outcome
from tests.support.places import REPOSITORY


@pytest.mark.long
def test_few_attacks_of_each_kind_break_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "measurements.attack", "--output", tmp_path / "out", "--share=0.02"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "9 attacks in " in done.stdout
    kinds = ("kills while writing", "poisoned rows", "damaged files", "false parts", "malicious")
    assert all(kind in done.stdout for kind in kinds)


def test_ending_is_judged_by_its_status_its_line_and_the_screen() -> None:
    line = "vlm_rl.fit: run_dir=x is in use\n"
    assert Outcome(2, line).broke(2) == ""
    assert Outcome(0, "step 1\n").broke(0, 2) == ""
    assert Outcome(2, line).broke(3) == "status 2: vlm_rl.fit: run_dir=x is in use"
    assert Outcome(2, "killed\n").broke(2) == "status 2 without a line"
    assert "a traceback" in Outcome(2, f"Traceback (most recent call last):\n{line}").broke(2)
    assert "a line of " in Outcome(2, f"vlm_rl.fit: {'x' * 5000}").broke(2)
