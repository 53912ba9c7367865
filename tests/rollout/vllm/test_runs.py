"""Whole runs with vLLM: what a broken engine must not change, and what a run reports.

Broken on purpose, one at a time, each seen red:
    weights not updated before a step -> on-policy
    no checkpoint when the engine gives up -> beyond its ceiling
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_helpers import command, rollouts, same, trainer_checkpoint
from tests.support.vllm_setup import MISSING, ROUNDING
from vlm_rl.fit import fit
from vlm_rl.run.metrics_csv import read_metrics

pytest.importorskip("vllm", reason=MISSING)

SMALL = {"kv_cache_gib": 1 / 16, "max_concurrent": 64}


def engine_options(class_path: str, **arguments: Any) -> dict[str, object]:
    return {"engine": json.dumps({"class_path": class_path, "init_args": SMALL | arguments})}


def uids(run_dir: Path) -> list[list[str]]:
    return [[row["uid"] for row in rows] for rows in rollouts(run_dir).values()]


def updates_of(run_dir: Path, step: int) -> int:
    """Optimizer updates, by the position of the learning-rate schedule."""
    (schedule,) = trainer_checkpoint(run_dir, step)["lr_schedulers"]
    return int(schedule["last_epoch"])


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, policy_folder: Path, data_folder: Path
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    options = engine_options("vlm_rl.rollout.VLLMEngine")
    fit(command(policy_folder, data_folder, folder, **options))
    return folder


def test_steps_are_on_policy_to_float32(undisturbed: Path) -> None:
    rows = [row for row in read_metrics(undisturbed / "metrics.csv") if "drift/abs_max" in row]
    assert len(rows) == 6
    for row in rows:
        assert row["drift/abs_max"] < ROUNDING
        assert row["drift/k3"] < 1e-9
        assert row["drift/ess"] == pytest.approx(1, abs=1e-6)
        assert row["rollout/engine_restarts"] == 0


@pytest.mark.long
def test_engine_killed_hung_and_aborted_in_the_middle_of_steps_loses_nothing(
    undisturbed: Path, tmp_path: Path, policy_folder: Path, data_folder: Path
) -> None:
    """Attack three of six steps: updates and prompts are as without attacks."""
    attacks = ["hang", "", "kill engine", "abort"]
    options = engine_options(
        "tests.support.vllm_setup.Attacked", attacks=attacks, silence_timeout_s=20
    )
    module = fit(command(policy_folder, data_folder, tmp_path, **options))
    assert module.engine.restarts == 3
    assert uids(tmp_path) == uids(undisturbed)
    assert updates_of(tmp_path, 6) == updates_of(undisturbed, 6) == 12
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "drift/abs_max" in row]
    assert [row["rollout/engine_restarts"] for row in rows] == [1, 1, 2, 3, 3, 3]
    assert max(row["drift/abs_max"] for row in rows) < ROUNDING


@pytest.mark.long
def test_engine_beyond_its_ceiling_stops_the_run_with_a_checkpoint_to_resume_from(
    undisturbed: Path,
    tmp_path: Path,
    policy_folder: Path,
    data_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bit for bit as if nothing had happened. It fails in step 5; checkpoints are due every 3."""
    marker, run_dir = tmp_path / "broken", tmp_path / "run"
    options = engine_options(
        "tests.support.vllm_setup.Breaking", marker=str(marker), breaks_at=5, max_restarts=0
    )
    with pytest.raises(SystemExit) as stopped:
        fit(command(policy_folder, data_folder, run_dir, **options))
    assert stopped.value.code == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "vlm_rl.fit:" in line]
    assert "the rollout engine failed 1 times in a row" in line
    assert "stopped after step 4 with a checkpoint" in line
    assert (run_dir / "checkpoints" / "step_4" / "hf" / "config.json").exists()
    fit(command(policy_folder, data_folder, run_dir, **options))
    ours, theirs = trainer_checkpoint(run_dir, 6), trainer_checkpoint(undisturbed, 6)
    assert same(ours["state_dict"], theirs["state_dict"])
    assert same(ours["optimizer_states"], theirs["optimizer_states"])
    assert rollouts(run_dir) == rollouts(undisturbed)


@pytest.mark.long
def test_drift_above_its_limit_is_an_alarm_with_the_uid(
    tmp_path: Path, policy_folder: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A top-k that the policy does not know of, allowed by name."""
    options = engine_options("vlm_rl.rollout.VLLMEngine")
    options |= {"sampling.top_k": 2, "sampling.allow_undescribed": '["top_k"]'}
    fit(command(policy_folder, data_folder, tmp_path, steps=1, **options))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("drift: ")]
    (row,) = [row for row in read_metrics(tmp_path / "metrics.csv") if "drift/abs_max" in row]
    assert any(repr(uid) in line for uid in uids(tmp_path)[0])
    assert "limit is 0.1" in line
    assert row["drift/abs_mean"] > 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling.top_k": 20}, "sampling.top_k=20: .*allow_undescribed"),
        (
            {"sampling.top_k": 20, "sampling.allow_undescribed": '["top_k"]'},
            "TransformersEngine .* top_k; .*VLLMEngine",
        ),
    ],
    ids=["not allowed", "not with this engine"],
)
def test_sampler_is_refused_in_one_line_before_a_model_is_loaded(
    tmp_path: Path,
    data_folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    words: str,
) -> None:
    with pytest.raises(SystemExit):
        fit(command(tmp_path / "no policy", data_folder, tmp_path / "run", **options))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
