"""The benchmark of the update, at its tiny scale on a CPU: its numbers agree with each other.

Broken on purpose, seen red: `build_policy` without the check.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from measurements.random_qwen import (
    SCALES,
    build_config,
    build_policy,
)
from tests.support.places import REPOSITORY

TINY = SCALES["tiny"]


def test_shape_with_another_number_of_parameters_is_refused() -> None:
    scale = replace(TINY, text=TINY.text | {"num_hidden_layers": 3})
    with pytest.raises(ValueError, match=r"the shape has \d+ parameters, 343872 were expected"):
        build_policy(build_config(scale), scale.num_parameters)


@pytest.mark.long
def test_tiny_scale_runs_and_its_numbers_agree(tmp_path: Path) -> None:
    root, target = REPOSITORY, tmp_path / "numbers.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "measurements.gpu_fsdp2",
            "--scale=tiny",
            "--compare",
            "--peak_tflops=0.5",
            f"--json={target}",
        ],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "step 3: " in done.stdout
    assert "343,872 parameters, fsdp2 bf16-mixed, 1 x CPU" in " ".join(done.stdout.split())
    summary = json.loads(target.read_text())
    work = TINY.work
    assert summary["processes"] == 1
    assert summary["completion_tokens"] == work["prompts"] * work["group_size"] * work["tokens"]
    assert summary["positions"] > summary["completion_tokens"]
    assert summary["positions_per_s"] == pytest.approx(summary["positions"] / summary["update_s"])
    assert summary["mfu"] == pytest.approx(summary["update_tflop"] / summary["update_s"] / 0.5)
    assert summary["update_s"] == summary["seconds"][-1]["update"]
    assert summary["peak_memory_gb"] == {}
    assert len(summary["losses"]) == len(summary["grad_norms"]) == 3
    assert all(map(math.isfinite, [*summary["losses"], *summary["grad_norms"]]))
    # bfloat16 rounds to 2^-8; without autocast's float32 norms and residuals a little more
    assert all(value < 0.02 for value in summary["difference"].values())
    assert any(value > 0 for value in summary["difference"].values())
