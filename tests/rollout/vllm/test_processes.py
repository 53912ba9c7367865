"""vLLM when two ranks train, with weights sharded over them (FSDP2, float32).

Three runs: a worker killed in the middle of a step, an engine beyond its ceiling, a
server that both ranks share. The run itself compares the log-probabilities of the engines with the
policy's, at 1e-4 nats a token.

Seen red once: vLLM's own end of an engine, which destroys the trainer's process group -> killed.
The rest of what ranks must agree about is in test_restarts.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_strategies import launch
from tests.support.run_helpers import command, rollouts, same, trainer_checkpoint
from tests.support.vllm_setup import MISSING
from vlm_rl import fit
from vlm_rl.run.metrics_csv import read_metrics

pytest.importorskip("vllm", reason=MISSING)

SMALL = {"kv_cache_gib": 1 / 16, "max_concurrent": 64}


class Runs:
    """Folders of the runs by name, and what they printed."""

    def __init__(self, root: Path, output: str) -> None:
        self.root, self.output = root, output

    def trained(self, name: str) -> list[dict[str, float]]:
        rows = read_metrics(self.root / name / "metrics.csv")
        return [row for row in rows if "drift/abs_max" in row]


@pytest.fixture(scope="module")
def ended(policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Launch a run that ends because its engine may not restart."""
    return launched(["ceiling"], policy_folder, data_folder, tmp_path_factory.mktemp("ended"))


@pytest.fixture(scope="module")
def runs(
    ended: Runs, policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    """Launch the others too."""
    launched(["killed", "shared"], policy_folder, data_folder, ended.root)
    return ended


def launched(names: Sequence[str], policy_folder: Path, data_folder: Path, root: Path) -> Runs:

    def entry(
        name: str, engine: str, *, every: int = 2, status: int = 0, lora: str = "null", **of: Any
    ) -> Any:
        argv = command(
            policy_folder,
            data_folder,
            root / name,
            steps=3,
            data__prompts_per_step=3,
            data__val_problems=3,
            validation__every_n_steps=3,
            checkpoint__every_n_steps=every,
            policy__lora=lora,
            engine=json.dumps({"class_path": engine, "init_args": SMALL | of}),
        )
        return {"strategy": "fsdp2", "processes": 2, "argv": argv, "status": status}

    killed = "tests.support.vllm_setup.Killed"
    never = {"max_restarts": 0, "every": 9, "status": 3}
    entries = {
        "killed": entry("killed", killed, rank=1, dies_at=2),
        "ceiling": entry("ceiling", killed, rank=0, dies_at=3, **never),
        "shared": entry("shared", "vlm_rl.rollout.VLLMServer", lora='{"rank": 4}', adapter_rank=8),
    }
    output = launch(
        {
            "checkpoints": {},
            "out": "",
            "runs": [entries[name] for name in names],
        }
    )
    return Runs(root, output)


@pytest.mark.long
def test_every_rank_samples_from_the_policy_before_and_after_an_update(ended: Runs) -> None:
    rows = ended.trained("ceiling")
    assert len(rows) == 2
    assert max(row["drift/abs_max"] for row in rows) < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("name", ["killed", "shared"])
def test_every_rank_samples_from_the_policy_at_every_step(runs: Runs, name: str) -> None:
    rows = runs.trained(name)
    assert len(rows) == 3
    assert max(row["drift/abs_max"] for row in rows) < 1e-4


@pytest.mark.long
def test_worker_killed_in_the_middle_of_a_step_changes_nothing_but_the_count(runs: Runs) -> None:
    """Until it ends, the run beyond the ceiling is the same run, undisturbed."""
    assert [row["rollout/engine_restarts"] for row in runs.trained("killed")] == [0, 1, 1]
    disturbed, undisturbed = rollouts(runs.root / "killed"), rollouts(runs.root / "ceiling")
    assert list(undisturbed) == [f"step_00000{s}_rank_{r}.jsonl" for s in (1, 2) for r in (0, 1)]
    for name, rows in undisturbed.items():
        assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in disturbed[name]]
    ours, theirs = (trainer_checkpoint(runs.root / name, 2) for name in ("killed", "ceiling"))
    assert same(ours["state_dict"], theirs["state_dict"])
    assert same(ours["optimizer_states"], theirs["optimizer_states"])


@pytest.mark.long
def test_engine_beyond_its_ceiling_stops_all_ranks_with_one_line_and_a_checkpoint(
    ended: Runs,
) -> None:
    """The launch checks the status of both; no checkpoint is due before step 3."""
    (line,) = [line for line in ended.output.splitlines() if "vlm_rl.fit:" in line]
    assert "failed 1 times in a row, last: rank 0: RuntimeError" in line
    assert "stopped after step 2 with a checkpoint" in line
    checkpoint = ended.root / "ceiling" / "checkpoints" / "step_2"
    assert (checkpoint / "hf" / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"engine": "vlm_rl.rollout.VLLMServer", "trainer.num_nodes": 2},
            "VLLMServer without url is for the ranks of one node",
        ),
    ],
    ids=["server of another node"],
)
def test_what_cannot_work_is_refused_in_one_line(
    options: dict[str, object],
    words: str,
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        fit.fit(command(policy_folder, data_folder, tmp_path, **options))
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
