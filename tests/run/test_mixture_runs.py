"""Runs of mixtures of experts by the command line: they learn, resume bit by bit, and are saved."""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.support.mixtures import MIXTURES
from tests.support.run_helpers import command, same, trainer_checkpoint
from tests.support.tiny import build_checkpoint
from vlm_rl.fit import fit
from vlm_rl.model import policy as policy_module
from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import named_weights
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.module import RLModule

STEPS = 20

RUN = {
    "policy.router_replay": True,
    "objective": "vlm_rl.objectives.LUSPO",
    "objective.init_args.regularizers": json.dumps(
        [{"class_path": "vlm_rl.objectives.LoadBalance", "init_args": {"coef": 0.01}}]
    ),
    "advantage": "vlm_rl.advantages.Centered",
    "reward.terms": json.dumps(
        {
            "accuracy": {
                "class_path": "tests.support.run_helpers.UntestedAccuracy",
                "init_args": {"weight": 0.1},
            },
            "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
        }
    ),
    "sampling.max_completion_tokens": 8,
    "group_size": 16,
    "data.prompts_per_step": 4,
    "optimizer.lr": 1e-2,
    "optimizer.warmup_updates": 0,
    "validation.every_n_steps": STEPS,
    "checkpoint.every_n_steps": 10,
    "steps": STEPS,
}


class Run(NamedTuple):
    argv: list[str]
    folder: Path
    module: RLModule


@pytest.fixture(scope="module", params=MIXTURES)
def run(
    request: pytest.FixtureRequest, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp(request.param)
    policy = build_checkpoint(request.param, folder / "policy")
    argv = command(policy, data_folder, folder / "whole", **RUN)
    return Run(argv, folder / "whole", fit(argv))


@pytest.mark.long
def test_twenty_steps_raise_the_reward_and_measure_the_routers(run: Run) -> None:
    rows = [row for row in read_metrics(run.folder / "metrics.csv") if "policy/loss" in row]
    assert len(rows) == STEPS
    rewards = [row["reward/even"] for row in rows]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1, rewards
    for row in rows:
        assert row["drift/abs_max"] < 1e-4
        assert row["drift/experts_differ_frac"] < 0.01
        assert row["policy/load_balance"] > 1.9  # 2 where the load is even
        assert 1 / 8 < row["router/most_loaded_frac"] <= 1 / 2


@pytest.mark.long
def test_saved_policy_has_every_tensor_by_its_name_and_loads_in_transformers(run: Run) -> None:
    folder = run.folder / "checkpoints" / f"step_{STEPS}" / "hf"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    trained = dict(named_weights(run.module.policy.model))
    assert same(dict(model.state_dict()), trained)
    assert same(dict(named_weights(Policy.from_pretrained(str(folder)).model)), trained)


@pytest.mark.long
def test_resumed_run_ends_with_the_same_bits(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "checkpoints" / f"step_{STEPS}")
    (folder / "checkpoints" / "last").unlink(missing_ok=True)
    argv = [*run.argv, f"--run_dir={folder}"]
    fit(argv)
    one, two = (trainer_checkpoint(path, STEPS) for path in (run.folder, folder))
    assert same(one["state_dict"], two["state_dict"])
    assert same(one["optimizer_states"], two["optimizer_states"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy.freeze=[router]"], r"policy\.freeze=\[router\] is for a mixture of experts"),
        (["--policy.router_replay=true"], r"policy\.router_replay=true is for a mixture"),
        (
            [
                "--objective=vlm_rl.objectives.GRPO",
                "--objective.init_args.regularizers=" + RUN["objective.init_args.regularizers"],  # type: ignore[operator]
            ],
            "the regularizer LoadBalance is for a mixture",
        ),
    ],
)
def test_dense_policy_is_refused_before_it_is_loaded(
    options: list[str],
    message: str,
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy_module, "_load_model", None)
    with pytest.raises(SystemExit) as refused:
        fit([*command(policy_folder, data_folder, tmp_path / "run"), *options])
    lines = f"{refused.value}{capsys.readouterr().err}"
    assert re.search(message, " ".join(lines.split())), lines


def test_replay_is_refused_with_an_engine_that_returns_no_experts(
    checkpoints: dict[str, Path],
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = "--engine=vlm_rl.rollout.VLLMEngine"
    argv = command(checkpoints[MIXTURES[0]], data_folder, tmp_path / "run", **RUN)
    with pytest.raises(SystemExit) as refused:
        fit([*argv, engine])
    lines = f"{refused.value}{capsys.readouterr().err}".replace("\n", " ")
    assert "which VLLMEngine does not return" in " ".join(lines.split())
