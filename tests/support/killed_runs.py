"""Start one training command twice and end each by SIGKILL.

`python -m tests.support.killed_runs ARGV_JSON` kills the first while it writes its first
checkpoint, and the second as soon as the rollouts of step 4 are there. One process imports
everything and forks both, because importing takes longer than such a run.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.run import checkpoints


def run_and_wait(argv: list[str], watch: Callable[[int], None]) -> list[str]:
    """Run `fit` until the signal that `watch` sends. Returns the names in `checkpoints/`."""
    process = os.fork()
    if process == 0:
        fit(argv)
        os._exit(0)
    watch(process)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), status
    assert os.WTERMSIG(status) == signal.SIGKILL
    return sorted(path.name for path in (run_dir_of(argv) / "checkpoints").iterdir())


def run_dir_of(argv: list[str]) -> Path:
    return Path(next(a for a in argv if a.startswith("--run_dir=")).partition("=")[2])


def kill_when(path: Path) -> Callable[[int], None]:
    def watch(process: int) -> None:
        while not path.exists():
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "it ended before it was killed"
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)

    return watch


def killed_while_saving(policy: Policy, folder: Path, **_: Any) -> None:
    """In place of `save_pretrained`: the trainer's half of a checkpoint is written, ours begun."""
    folder.mkdir()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    argv: list[str] = json.loads(sys.argv[1])
    save, checkpoints.save_pretrained = checkpoints.save_pretrained, killed_while_saving
    while_saving = run_and_wait(argv, watch=lambda process: None)
    checkpoints.save_pretrained = save
    in_a_step = run_and_wait(argv, kill_when(run_dir_of(argv) / "rollouts" / "step_000004.jsonl"))
    print(json.dumps([while_saving, in_a_step]))


if __name__ == "__main__":
    main()
