"""The overlapped schedule on two ranks: each waits for its own rollout, all collectives in step.

The engines are second transformers models (`copied_engine`), whose weights come through the same
exchange as vLLM's. Broken on purpose, each seen red: the rollouts of rank 1 left out of the
checkpoint; a fault of one rank raised on that rank alone.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_strategies import launch
from tests.support.overlapping import engine, overlapped
from tests.support.parameters import also_long
from tests.support.run_helpers import REWARD_TERMS, rollouts, same, trainer_checkpoint
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.overlap import PENDING


@pytest.mark.parametrize("strategy", ["ddp", also_long("fsdp2")])
@pytest.mark.long
def test_two_ranks_overlap_recover_together_and_go_on_bit_for_bit(
    strategy: str, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """The engine of rank 1 fails in the rollout of step 2; rank 1 is told to stop in step 3."""
    signals = {"marker": str(tmp_path / "told"), "at": 4}
    even = {"class_path": "tests.support.overlapping.SignalsOnce", "init_args": signals}

    def entry(name: str, **how: Any) -> dict[str, Any]:
        how |= {"steps": 4, "data__prompts_per_step": 3, "checkpoint__every_n_steps": 9}
        how["engine"] = engine(policy_folder, "overlapping.Faulty", rank=1, faults=[1])
        argv = overlapped(policy_folder, data_folder, tmp_path / name, **how)
        return {"strategy": strategy, "processes": 2, "argv": argv}

    stopped = entry("stopped", terms=REWARD_TERMS | {"even": even})
    launch({"checkpoints": {}, "out": "", "runs": [entry("whole"), stopped, stopped]})
    ours, theirs = (trainer_checkpoint(tmp_path / name, 4) for name in ("stopped", "whole"))
    assert same(ours["state_dict"], theirs["state_dict"])
    assert same(ours["optimizer_states"], theirs["optimizer_states"])
    assert rollouts(tmp_path / "stopped") == rollouts(tmp_path / "whole")
    for name in ("stopped", "whole"):
        assert _column(tmp_path / name, "rollout/staleness_steps") == [0, 0, 1, 1]
    assert _column(tmp_path / "whole", "rollout/engine_restarts") == [0, 1, 1, 1]
    assert (tmp_path / "told").exists()
    pending = trainer_checkpoint(tmp_path / "stopped", 3)["vlm_rl"][PENDING]
    assert len(pending["groups"]) == 3


def _column(run_dir: Path, name: str) -> list[float]:
    return [row[name] for row in read_metrics(run_dir / "metrics.csv") if name in row]
