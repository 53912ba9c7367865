"""Whole runs under DeepSpeed: rollouts of a policy that is cut, and how its checkpoints go on.

Tolerances as in `test_sharding_runs`.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from run_helpers import REWARD_TERMS, rollouts
from test_sharding import largest_difference
from test_sharding_runs import Commands

from vlm_rl.report import read_metrics

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")

TERMS = REWARD_TERMS | {"accuracy": {"class_path": "test_dynamic_sampling.FirstTokenEven"}}
LIVE = {
    "dynamic_sampling": "vlm_rl.sampling.MixedVerdicts", "reward.terms": json.dumps(TERMS),
    "sampling.temperature": 1.5,
}  # fmt: skip
REPLAYED = {"engine": "sharded_runs.Replayed"}
INTERRUPTED = {"engine": "sharded_runs.Interrupted", "steps": 5}


@pytest.fixture(scope="module")
def commands(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Commands:
    """One launch: DeepSpeed takes longest to import."""
    commands = Commands(policy_folder, data_folder, tmp_path_factory.mktemp("runs"))
    commands.run(
        commands("whole", "ddp", 2, **LIVE),
        commands("cut", "zero3", 2, **LIVE),
        commands("one", "auto", 1, steps=4, **REPLAYED),
        commands("interrupted", "zero2", 2, **INTERRUPTED),
        commands("interrupted", "zero2", 2, **INTERRUPTED),
    )
    return commands


def test_cut_policy_samples_what_a_whole_one_samples(commands: Commands) -> None:
    """Completions of unequal lengths: nobody gathers a part that another one does not."""
    whole, cut = (rollouts(commands.root / name) for name in ("whole", "cut"))
    for name, rows in whole.items():
        assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in cut[name]]
    lengths = [sum(len(row["token_ids"]) for row in rows) for rows in whole.values()]
    assert lengths[0] != lengths[1]
    assert largest_difference(commands.weights("whole", 2), commands.weights("cut", 2)) < 5e-5


def test_interrupted_run_goes_on_as_one_that_was_not(commands: Commands) -> None:
    """Its checkpoint of step 2 was written before the validation, and again after it."""
    middle, end = (commands.weights("one", step) for step in (2, 4))
    assert largest_difference(middle, end) > 1e-3
    assert largest_difference(commands.weights("interrupted", 2), middle) < 5e-5
    assert largest_difference(commands.weights("interrupted", 4), end) < 5e-5
    metrics = read_metrics(commands.root / "interrupted" / "metrics.csv")
    assert [row["step"] for row in metrics if "val/accuracy" in row] == [0, 2]
    assert not list((commands.root / "interrupted").rglob("*.partial"))
