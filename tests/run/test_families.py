"""A run of every family: it learns, continues to the last bit, and leaves a checkpoint that loads.

The reward is the share of even token ids, which an untrained policy can learn.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.support.run_helpers import REWARD_TERMS, command, same, trainer_checkpoint
from tests.support.tiny import FAMILIES
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.module import RLModule

STEPS = 20

pytestmark = pytest.mark.long


class Run(NamedTuple):
    folder: Path
    module: RLModule


@pytest.fixture(scope="module", params=FAMILIES)
def run(
    request: pytest.FixtureRequest,
    checkpoints: dict[str, Path],
    data_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Train for twenty steps, interrupted after ten."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    for steps in (STEPS // 2, STEPS):
        module = fit(_command(checkpoints[request.param], data_folder, folder, steps))
    return Run(folder, module)


def _command(policy: Path, data: Path, run_dir: Path, steps: int) -> list[str]:
    accuracy = REWARD_TERMS["accuracy"] | {"init_args": {"weight": 0}}
    return command(
        policy,
        data,
        run_dir,
        "--reward.terms",
        json.dumps(REWARD_TERMS | {"accuracy": accuracy}),
        steps=steps,
        group_size=16,
        data__prompts_per_step=4,
        sampling__max_completion_tokens=4,
        updates__num_minibatches=4,
        optimizer__lr=1e-2,
        validation__every_n_steps=STEPS,
        checkpoint__every_n_steps=STEPS // 2,
    )


@pytest.mark.covers("fit")
def test_reward_rises(run: Run) -> None:
    rows = read_metrics(run.folder / "metrics.csv")
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
    assert len(rewards) == STEPS
    assert sum(rewards[:2]) / 2 < 0.7
    assert sum(rewards[-4:]) / 4 > 0.9


@pytest.mark.covers("fit")
def test_continued_run_equals_the_undisturbed_one_bit_for_bit(
    run: Run, data_folder: Path, tmp_path: Path
) -> None:
    start = Path(run.module.encoder.path)
    fit(_command(start, data_folder, tmp_path / "whole", STEPS))
    states = [trainer_checkpoint(folder, STEPS) for folder in (run.folder, tmp_path / "whole")]
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(states[0][name], states[1][name]), name


@pytest.mark.covers("fit")
def test_checkpoint_loads_with_transformers_and_equals_the_policy(run: Run) -> None:
    folder = run.folder / "checkpoints" / f"step_{STEPS}" / "hf"
    trained = dict(run.module.policy.model.state_dict())
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert same(dict(model.state_dict()), trained)
    assert same(dict(Policy.from_pretrained(str(folder)).model.state_dict()), trained)
    start = Policy.from_pretrained(run.module.encoder.path).model.state_dict()
    assert not same(dict(start), trained)
