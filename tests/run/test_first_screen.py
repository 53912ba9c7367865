"""What a run says at its start and at each step: its settings at once, on lines that fit.

Broken on purpose, one at a time, each seen red: details that a narrow line keeps; `anonymous` left
in what Lightning passes to W&B; weights left with the mode that safetensors gives.
"""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.support.run_helpers import REWARD_TERMS, command
from vlm_rl.fit import fit
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.run.progress import training_line
from vlm_rl.trackers import wandb_runs

METRICS = {
    "reward/mean": 0.45,
    "reward/accuracy": 0.39,
    "completion/length_tokens": 1213.3,
    "completion/truncated_frac": 0.02,
    "policy/clip_frac_low": 0.1,
    "policy/clip_frac_high": 0.1,
    "optim/grad_norm": 7.07,
    "policy/entropy": 0.196,
    "time/rollout_s": 61.0,
}


def test_a_run_says_its_settings_before_it_reads_data(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0o022)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("objective: {class_path: vlm_rl.objectives.GSPO}\n")
    run_dir = tmp_path / "run"
    try:
        fit(
            command(
                *(policy_folder, data_folder, run_dir, "--config", str(overlay)),
                steps=1,
                reward__terms=json.dumps(REWARD_TERMS),
            )
        )
    finally:
        os.umask(before)
    screen = capfd.readouterr()
    first = screen.out.splitlines()[:3]
    assert first[0] == f"{run_dir}: GSPO, advantage Normalized, reward 0.9 accuracy + 1 even"
    assert first[1] == "  1 steps x 2 problems x 4 completions of up to 12 tokens"
    assert f"policy {policy_folder} (qwen2_5_vl), 32-true, 1 x cpu" in first[2]
    assert "Loading weights" not in screen.err
    assert "Writing model shards" not in screen.err
    hf = run_dir / "checkpoints" / "step_1" / "hf"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in hf.iterdir()}
    assert set(modes.values()) == {0o644}, modes
    for folder in (run_dir, hf.parent):
        with pytest.raises(ValueError, match="no config") as refused:
            check_checkpoint(str(folder))
        assert str(refused.value).endswith("/hf")


def test_missing_weights_are_named_before_the_data_are_read(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(policy_folder, empty, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(SystemExit) as ended:
        fit(command(empty, data_folder, tmp_path / "run"))
    assert ended.value.code == 2
    screen = capfd.readouterr()
    assert f"{empty} has a config.json but no weights" in screen.err
    assert str(data_folder) not in screen.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("width", [70, 80, 120])
def test_the_line_of_a_step_fits_a_narrow_terminal(width: int) -> None:
    line = training_line(100, 1000, METRICS, width)
    assert len(line) <= width
    assert "reward 0.450  accuracy 39.0%" in line
    assert line.endswith("  61.0 s")


def test_a_line_without_a_width_leaves_nothing_out() -> None:
    line = training_line(100, 1000, METRICS)
    assert "truncated 2.0%  clipped low 10.0%  high 10.0%  grad 7.07  entropy 0.196" in line
    empty = training_line(1, 2, {"sampling/empty_step": 1.0}, 30)
    assert "no group to train on, no update" in empty


def test_wandb_does_not_warn_of_what_lightning_passes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    [logger] = wandb_runs(tmp_path, "offline", "letters", {})
    with logger:
        assert logger.experiment is not None
    assert "anonymous" not in capfd.readouterr().err
