"""A run that is interrupted, killed or extended computes what an undisturbed one computes.

Mutations tried, each seen red: the data starting at step 0 again; `completed_steps`,
`validation_history`, the objective's average or `refill_position` not restored; a `.partial` folder
taken for a checkpoint; `MetricsCsv` keeping the rows after it; a checkpoint written before the
validation of its step.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support.places import REPOSITORY
from tests.support.run_helpers import REWARD_TERMS, command, rollouts, same, trainer_checkpoint
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.module import RLModule

STATEFUL = (
    "--objective=vlm_rl.objectives.FSPO",
    "--objective.init_args.clip_low_log=0.04",
    "--objective.init_args.clip_high_log=0.04",
    "--objective.init_args.dual_clip_log=0.5",
    "--objective.init_args.drift=centre",
    "--objective.init_args.ema_rate=0.1",
    "--objective.init_args.regularizers",
    '[{"class_path": "vlm_rl.objectives.AdaptiveKL", '
    '"init_args": {"kl_coef": 0.1, "target": 1e-3}}]',
    "--dynamic_sampling=vlm_rl.training.MixedVerdicts",
    "--reward.terms",
    json.dumps(
        REWARD_TERMS | {"accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"}}
    ),
)
"""A running average in the objective, a coefficient that moves, a reference, and groups that are
dropped and replaced."""


class Folders(NamedTuple):
    policy: Path
    data: Path


def _command(folders: Folders, run_dir: Path, **overrides: object) -> list[str]:
    # 12 updates in all and a warm-up of 8: the restart falls into it
    warmup = {"optimizer.warmup_updates": 8}
    return command(folders.policy, folders.data, run_dir, *STATEFUL, **warmup | overrides)


@pytest.fixture(scope="module")
def folders(policy_folder: Path, data_folder: Path) -> Folders:
    return Folders(policy_folder, data_folder)


class Run(NamedTuple):
    folder: Path
    module: RLModule


@pytest.fixture(scope="module")
def whole(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train six steps without a break."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    torch.manual_seed(1)
    return Run(folder, fit(_command(folders, folder)))


@pytest.fixture(scope="module")
def extended(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Extend a finished run of three steps to six, with other global random numbers."""
    folder = tmp_path_factory.mktemp("runs") / "extended"
    torch.manual_seed(2)
    fit(_command(folders, folder, steps=3))
    torch.manual_seed(3)
    return Run(folder, fit(_command(folders, folder, steps=6)))


def _state(run_dir: Path, step: int = 6) -> dict[str, object]:
    """Load all that decides how a run continues, without the seconds that it took."""
    loaded = trainer_checkpoint(run_dir, step)
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "ProblemData")
    own = {key: value for key, value in loaded["vlm_rl"].items() if key != "stage_seconds"}
    return {name: loaded[name] for name in names} | own


def _assert_equal_runs(run_dir: Path, whole: Path) -> None:
    got, wanted = _state(run_dir), _state(whole)
    for name, value in wanted.items():
        assert same(got[name], value), f"{name} differs"
    written, undisturbed = rollouts(run_dir), rollouts(whole)
    assert list(written) == [f"step_{step:06d}.jsonl" for step in range(1, 7)]
    for name, rows in undisturbed.items():
        for key in ("uid", "token_ids", "reward", "advantage", "completion"):
            assert [row[key] for row in written[name]] == [row[key] for row in rows], (name, key)
    _assert_equal_metrics(run_dir, whole)


def _assert_equal_metrics(run_dir: Path, whole: Path) -> None:
    """Check for each training step once, and the same numbers in the same order."""
    tables = []
    for folder in (run_dir, whole):
        rows = read_metrics(folder / "metrics.csv")
        steps = Counter(row["step"] for row in rows if "policy/loss" in row)
        assert steps == Counter(range(1, 7))
        kept = [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]
        tables.append(sorted(kept, key=lambda row: (row["step"], "val/accuracy" in row)))
    assert tables[0] == tables[1]


@pytest.mark.long
def test_precision_of_hf_changes_neither_training_nor_what_is_resumed(
    folders: Folders, whole: Run, tmp_path: Path
) -> None:
    for steps in (3, 6):
        fit(_command(folders, tmp_path, steps=steps, checkpoint__hf_precision="bfloat16"))
    _assert_equal_runs(tmp_path, whole.folder)
    half, full = (
        AutoModelForImageTextToText.from_pretrained(
            folder / "checkpoints" / "step_6" / "hf", dtype="auto"
        )
        for folder in (tmp_path, whole.folder)
    )
    assert (half.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    rounded = {name: weight.bfloat16() for name, weight in full.state_dict().items()}
    assert same(half.state_dict(), rounded)


def test_runs_compared_here_really_learn(whole: Run) -> None:
    start = torch.load(whole.folder / "checkpoints/step_3/trainer.ckpt", weights_only=True)
    end = _state(whole.folder)
    assert not same(start["state_dict"], end["state_dict"])
    rows = [row for row in read_metrics(whole.folder / "metrics.csv") if "policy/loss" in row]
    assert all(row["optim/grad_norm"] > 0 for row in rows)
    assert len({row["optim/lr"] for row in rows}) > 3
    assert [h["step"] for h in whole.module.validation_history] == [0, 3, 6]
    states = [trainer_checkpoint(whole.folder, step)["vlm_rl"] for step in (3, 6)]
    assert 0 < states[0]["refill_position"] <= states[1]["refill_position"]
    moved = [state["objective"]["surrogate"]["mean_log_ratio"] for state in states]
    assert moved[0] != 0
    assert moved[0] != moved[1]
    assert len({state["objective"]["kl"]["kl_coef"] for state in states} | {0.1}) == 3


def test_extended_run_equals_the_undisturbed_one_bit_for_bit(extended: Run, whole: Run) -> None:
    _assert_equal_runs(extended.folder, whole.folder)
    assert same(dict(extended.module.state_dict()), dict(whole.module.state_dict()))


def test_reference_is_the_starting_policy_after_a_restart_and_in_no_checkpoint(
    extended: Run, folders: Folders
) -> None:
    start = Policy.from_pretrained(str(folders.policy)).state_dict()
    reference = extended.module.reference
    assert reference is not None
    assert same(dict(reference.policy.state_dict()), dict(start))
    assert not same(dict(extended.module.policy.state_dict()), dict(start))
    saved = trainer_checkpoint(extended.folder, 6)["state_dict"]
    assert set(saved) == {f"policy.{name}" for name in start}


def test_checkpoint_loads_with_transformers_and_equals_the_policy(whole: Run) -> None:
    folder = whole.folder / "checkpoints" / "step_6" / "hf"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert same(dict(model.state_dict()), dict(whole.module.policy.model.state_dict()))
    processor = AutoProcessor.from_pretrained(folder)
    ours = whole.module.encoder.processor
    assert processor.chat_template == ours.chat_template
    assert processor.tokenizer.get_vocab() == ours.tokenizer.get_vocab()
    assert processor.image_processor.to_dict() == ours.image_processor.to_dict()


def test_killed_run_resumes_from_its_last_whole_checkpoint(
    folders: Folders, whole: Run, tmp_path: Path
) -> None:
    run_dir = tmp_path / "killed"
    argv = _command(folders, run_dir)
    killed_runs = [sys.executable, "-m", "tests.support.killed_runs", json.dumps(argv)]
    done = subprocess.run(killed_runs, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    while_saving, in_a_step = json.loads(done.stdout.splitlines()[-1])
    assert while_saving == ["step_3.partial"], "nothing to resume from: started again"
    assert in_a_step == ["best", "step_3"]
    assert (run_dir / "rollouts" / "step_000004.jsonl").exists()
    fit(argv)
    left = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert left == {"best", "step_3", "step_6"}
    _assert_equal_runs(run_dir, whole.folder)
