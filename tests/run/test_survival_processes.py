"""How a run of two real processes ends: together, with a line that names who and why, and nothing
lost that was complete.

A step is atomic: the samples of a killed one are lost and sampled again, because random numbers are
a function of seed, step and rank.

Mutations tried, each seen red: the speaking rank named in place of the one that received the signal
-> sigterm; no search for a rank that is gone, a new W&B id at each start -> killed; a failure of an
earlier start believed -> hang; half-written files left on the disk -> full disk.
"""

import json
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copytree

import pytest

from tests.run.test_resume import STATEFUL
from tests.run.test_survival import Forks, Run
from tests.support.run_helpers import REWARD_TERMS, command
from vlm_rl.run.heartbeat import FAILED, read_beats

STEPS = 5


class Runs:
    """Starts one training on two ranks, in folders of `root`."""

    def __init__(self, policy: Path, data: Path, root: Path) -> None:
        self.policy, self.data, self.root = policy, data, root
        self.planted = root / "planted"
        self.forks = Forks()

    def start(
        self, name: str, limit: int = 0, told: Sequence[object] = (), **overrides: object
    ) -> Run:
        even = {
            "class_path": "tests.support.forked_runs.Planted",
            "init_args": {"path": str(self.planted)},
        }
        accuracy = {"class_path": "tests.support.run_helpers.FirstTokenEven"}
        terms = REWARD_TERMS | {"accuracy": accuracy, "even": even}
        values = {
            "steps": STEPS,
            "data.prompts_per_step": 4,
            "data.val_problems": 6,
            "trainer.devices": 2,
            "trainer.strategy": "ddp",
        }
        folder = self.root / name
        more = (*STATEFUL, "--reward.terms", json.dumps(terms))
        argv = command(self.policy, self.data, folder, *more, **values | overrides)
        return Run(self.forks, argv, folder, num_ranks=2, limit=limit, told=told)

    def copy(self, run: Run, name: str) -> Path:
        return Path(copytree(run.run_dir, self.root / name, symlinks=True))


@pytest.fixture(scope="module")
def two(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    runs = Runs(policy_folder, data_folder, tmp_path_factory.mktemp("two"))
    yield runs
    runs.forks.close()


@pytest.fixture(scope="module")
def stopped(two: Runs) -> Run:
    """Stop a run, logged to W&B, by SIGTERM to rank 1 alone in a rollout."""
    run = two.start("stopped", logging__wandb="offline")
    run.beat = run.beat_when(lambda beat: beat.step >= 2 and beat.phase == "rollout", rank=1)
    run.send(signal.SIGTERM, rank=1)
    return run


def wandb_starts(run_dir: Path) -> list[str]:
    """Return the id of each start of W&B in a run's folder."""
    folders = (run_dir / "wandb").glob("offline-run-*")
    return [path.name.rpartition("-")[2] for path in folders]


def test_sigterm_to_one_rank_stops_all_after_the_same_step(stopped: Run) -> None:
    assert stopped.statuses == [0, 0], stopped.log.read_text()
    done = stopped.beat.step
    line = rf"SIGTERM in the \w+ of rank 1: stopped after step {done} with a checkpoint"
    assert re.search(line, stopped.line)
    assert [beat.step for beat in read_beats(stopped.run_dir / "heartbeat")] == [done + 1] * 2
    checkpoint = stopped.run_dir / "checkpoints" / f"step_{done}"
    assert (checkpoint / "trainer.ckpt").exists()
    assert (checkpoint / "hf/model.safetensors").exists()
    assert not [*stopped.run_dir.rglob("*.partial")]
    assert len(wandb_starts(stopped.run_dir)) == 1, "only rank 0 logs"


@pytest.mark.long
def test_killed_rank_is_named_and_its_step_is_repeated_bit_for_bit(two: Runs, stopped: Run) -> None:
    whole = two.start("undisturbed")
    assert whole.end() == 0, whole.log.read_text()
    two.copy(stopped, "killed")
    run = two.start("killed")
    beat = run.beat_when(lambda b: b.step >= 4 and b.phase in ("logprobs", "update"), rank=1)
    run.send(signal.SIGKILL, rank=1)
    assert run.statuses == [1, -signal.SIGKILL]
    assert "rank 0 ends, rank 1 is gone (killed? out of memory?), last seen in " in run.line
    assert "stopped after step" in run.line
    sampled = f"rollouts/step_{beat.step:06d}_rank_0.jsonl"
    assert not (run.run_dir / sampled).exists()
    again = two.start("killed", logging__wandb="offline")
    assert again.end() == 0, again.log.read_text()
    assert two.forks("compare", run.run_dir, whole.run_dir, STEPS) == []
    first, second = wandb_starts(run.run_dir)
    assert first == second == (run.run_dir / "wandb/run_id").read_text()


@pytest.mark.long
def test_failure_and_hang_of_one_rank_end_the_other(two: Runs, stopped: Run) -> None:
    """Hang in the folder of the failure, whose traces must not end the run."""
    folder = two.copy(stopped, "faults")
    try:
        two.planted.write_text("fail")
        failed = two.start("faults")
        failed.beat_when(lambda beat: (folder / "heartbeat" / FAILED).exists())
        failed.end()
        text = failed.log.read_text()
        two.planted.write_text("wait")
        hung = two.start("faults", hang_timeout_s=4)
        hung.end()
    finally:
        two.planted.unlink()
    assert failed.statuses == [1, 4], text
    failure = r"PartError: reward term even \S+Planted failed with ValueError: planted"
    assert re.search(rf"rank 0 ends, rank 1 failed in reward of step \d: {failure}", text)
    assert "Traceback" not in text
    assert "planted" in (folder / "error.log").read_text()
    assert hung.statuses == [75, 75], hung.log.read_text()
    stacks = [(folder / f"heartbeat/rank_{rank}.stacks.txt").read_text() for rank in (0, 1)]
    assert re.search(r'forked_runs.py", line \d+ in __call__', stacks[1])
    assert "ranks.py" in stacks[0], "rank 0 waits for rank 1"
    text = hung.log.read_text()
    assert all(each in text for each in stacks)
    assert re.search(r"rank 1 in reward of step \d|rank 1 has been silent for 4 s, in rew", text)


@pytest.mark.long
def test_full_disk_under_two_ranks_ends_both_and_loses_nothing(two: Runs, stopped: Run) -> None:
    folder = two.copy(stopped, "full")
    [before] = folder.glob("checkpoints/step_*")
    kept = {path: path.read_bytes() for path in before.rglob("*") if path.is_file()}
    run = two.start("full", limit=(before / "trainer.ckpt").stat().st_size // 2)
    run.end()
    text = run.log.read_text()
    assert run.statuses == [74, 1], text
    [line] = re.findall(r"^vlm_rl\.fit: cannot write the checkpoint .*$", text, re.MULTILINE)
    assert "File too large" in line
    assert f"stopped after step {stopped.beat.step} with a checkpoint" in line
    assert "rank 1 ends, rank 0 failed in checkpoint of step" in text
    assert "Traceback" not in text
    assert {path: path.read_bytes() for path in kept} == kept
    assert not [*folder.rglob("*.partial")]
