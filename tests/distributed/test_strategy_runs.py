"""Whole runs of `vlm_rl.fit` in several processes: what they write, and how they go on.

The rollouts are replayed, so that a run that was saved by two processes and goes on with one or
three can be compared with one that never was shared: weights to 5e-5 in float32 where they move by
4e-3 (AdamW makes a step of a gradient that is rounding only; two thirds of it are from step one).

Shown red once: the optimizer's state of one process, which FSDP2 loads by Lightning's own numbers
of parameters.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from tests.distributed.test_strategies import largest_difference, launch
from tests.support.places import REPOSITORY
from tests.support.run_helpers import REWARD_TERMS, command, rollouts
from vlm_rl.run.metrics_csv import read_metrics

KL = '[{"class_path": "vlm_rl.objectives.KL", "init_args": {"kl_coef": 0.1}}]'


class Commands:
    """Command lines of runs in one folder; a reference, so that it is shared out too."""

    def __init__(self, policy: Path, data: Path, root: Path) -> None:
        self.policy, self.data, self.root = policy, data, root

    def __call__(self, name: str, strategy: str, processes: int, **overrides: object) -> dict:
        values = {"data__prompts_per_step": 6, "data__val_problems": 15, "steps": 2}
        values |= {"checkpoint__every_n_steps": 2, "validation__every_n_steps": 2} | overrides
        more = ("--objective.init_args.regularizers", KL)
        argv = command(self.policy, self.data, self.root / name, *more, **values)
        return {"strategy": strategy, "processes": processes, "argv": argv}

    def run(self, *runs: dict) -> None:
        launch({"checkpoints": {}, "out": "", "runs": runs})

    def weights(self, name: str, step: int) -> dict[str, Tensor]:
        folder = self.root / name / "checkpoints" / f"step_{step}" / "hf"
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        return dict(model.state_dict())

    def adapters(self, name: str, step: int, part: str = "adapter") -> dict[str, Tensor]:
        folder = self.root / name / "checkpoints" / f"step_{step}" / part
        return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def commands(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Commands:
    return Commands(policy_folder, data_folder, tmp_path_factory.mktemp("runs"))


def _uids(run_dir: Path, step: int) -> list[str]:
    files = rollouts(run_dir).items()
    of_step = [rows for name, rows in files if name.startswith(f"step_{step:06d}")]
    return sorted(row["uid"] for rows in of_step for row in rows)


@pytest.mark.long
def test_run_of_two_processes_goes_on_with_one_and_with_three(commands: Commands) -> None:
    replayed = {"engine": "tests.support.replayed.Replayed"}
    commands.run(
        commands("two", "fsdp2", 2, **replayed), commands("one", "auto", 1, steps=4, **replayed)
    )
    for name in ("then_one", "then_three"):
        copytree(commands.root / "two", commands.root / name)
    commands.run(
        commands("then_one", "auto", 1, steps=4, **replayed),
        commands("then_three", "ddp", 3, steps=4, **replayed),
    )
    middle, end = (commands.weights("one", step) for step in (2, 4))
    assert largest_difference(middle, end) > 1e-3
    assert largest_difference(commands.weights("two", 2), middle) < 5e-5
    for name in ("then_one", "then_three"):
        assert largest_difference(commands.weights(name, 4), end) < 5e-5
        for step in (1, 2, 3, 4):
            assert _uids(commands.root / name, step) == _uids(commands.root / "one", step)


@pytest.mark.long
def test_adapters_of_two_processes_go_on_with_one_and_of_one_with_two(commands: Commands) -> None:
    """Saved alone and merged: both are those of a run that never was shared."""
    lora = {"rank": 4, "alpha": 8, "parts": ["language_model", "vision_tower"]}
    how = {"engine": "tests.support.replayed.Replayed", "policy__lora": json.dumps(lora)}
    how |= {"checkpoint__merge_adapter": True}
    commands.run(
        commands("lora_two", "fsdp2", 2, **how), commands("lora_one", "auto", 1, steps=4, **how)
    )
    copytree(commands.root / "lora_two", commands.root / "lora_two_one")
    copytree(commands.root / "lora_one", commands.root / "lora_one_two")
    rmtree(commands.root / "lora_one_two" / "checkpoints" / "step_4")
    commands.run(
        commands("lora_two_one", "auto", 1, steps=4, **how),
        commands("lora_one_two", "fsdp2", 2, steps=4, **how),
    )
    middle, end = (commands.adapters("lora_one", step) for step in (2, 4))
    assert largest_difference(middle, end) > 1e-3
    assert largest_difference(commands.adapters("lora_two", 2), middle) < 5e-5
    for name in ("lora_two_one", "lora_one_two"):
        assert largest_difference(commands.adapters(name, 4), end) < 5e-5
        merged = commands.weights(name, 4)
        assert largest_difference(merged, commands.weights("lora_one", 4)) < 5e-5


@pytest.mark.long
def test_sharded_policy_samples_what_a_whole_one_samples(commands: Commands) -> None:
    """Completions of unequal lengths, dynamic sampling, a process with one problem less to
    validate: nobody waits for the others in vain, and both see the same weights."""
    terms = REWARD_TERMS | {"accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"}}
    live = {
        "dynamic_sampling": "vlm_rl.training.MixedVerdicts",
        "reward.terms": json.dumps(terms),
        "sampling.temperature": 1.5,
    }
    commands.run(commands("whole", "ddp", 2, **live), commands("sharded", "fsdp2", 2, **live))
    whole, sharded = (rollouts(commands.root / name) for name in ("whole", "sharded"))
    assert list(whole) == [f"step_00000{s}_rank_{r}.jsonl" for s in (1, 2) for r in (0, 1)]
    for name, rows in whole.items():
        assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in sharded[name]]
    for step in (1, 2):
        uids = _uids(commands.root / "whole", step)
        assert len(uids) == 4 * len(set(uids)), "a problem is in a step once, on all processes"
    metrics = read_metrics(commands.root / "sharded" / "metrics.csv")
    trained = [row for row in metrics if "policy/loss" in row]
    assert [row["sampling/missing_groups"] for row in trained] == [0, 0]
    assert sum(row["sampling/prompts_spent"] for row in trained) > 12
    assert largest_difference(commands.weights("whole", 2), commands.weights("sharded", 2)) < 5e-5


def test_command_line_starts_its_processes(commands: Commands) -> None:
    argv = commands("launched", "ddp", 2, steps=1)["argv"]
    argv += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, "-m", "vlm_rl.fit", *argv],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("step 1/1") == 1
    assert (commands.root / "launched" / "checkpoints" / "step_1" / "hf").is_dir()
