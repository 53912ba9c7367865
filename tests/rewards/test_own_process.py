"""The process of a reward function ends with the trainer, also while the function hangs.

Mutation tried, seen red: the requests read in the thread that calls the function.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import until

TRAINER = """
import sys
import torch
from vlm_rl.records import Completion, Problem
from vlm_rl.rewards import Function

none = torch.zeros(0)
term = Function("f", sys.argv[1])
term([Problem("a", "?", "1")], [[Completion(none.long(), none, "stop", "")]])
"""
HANGS = """
import os, pathlib, time
def f(completion):
    place = pathlib.Path(__file__).with_name("pid")
    place.with_suffix(".new").write_text(str(os.getpid()))
    place.with_suffix(".new").rename(place)
    {}
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["while True: pass", "time.sleep(10**6)"])
def test_killed_trainer_leaves_no_process(how: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANGS.format(how))
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(tmp_path / "mine.py")])
    until((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    until(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # where nobody waits for orphans they stay as zombies
