"""The benchmark of the update, at its tiny scale on a CPU: its numbers agree with each other and
its FLOPs with what torch counts.

Broken on purpose, one at a time, each seen red: completions that do not see their prompt in
`visible_pairs`; windows cut off at the border of the image; a merger that is read for every
patch; `build_policy` without the check.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from measurements.random_qwen import (
    SCALES,
    build_config,
    build_encoder,
    build_policy,
    build_prompts,
)
from measurements.update_flops import update_flops, visible_pairs
from tests.support.oracles import dense_mask
from tests.support.places import REPOSITORY
from tests.support.tiny import completion_of
from vlm_rl.model import attention
from vlm_rl.model.attention.plain import plain_attention
from vlm_rl.model.packing import pack
from vlm_rl.records import Rows

TINY = SCALES["tiny"]


def test_update_flops_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attention_for", lambda *_: plain_attention)  # torch counts it
    config = build_config(TINY)
    policy = build_policy(config, TINY.num_parameters).eval()
    # an image of whole windows, and one whose last windows are cut
    prompts = build_prompts(build_encoder(64 * 28 * 28), ((224, 112), (300, 180)), 2)
    groups = [[completion_of(range(n)) for n in lengths] for lengths in ((5, 9), (3, 1))]
    packed = pack(Rows.build(prompts, groups, torch.ones(2, 2, dtype=torch.bool)))
    computed = sum(
        group.prompt**2 + sum(n * (group.prompt + n) for n in group.completions)
        for group in packed.groups
    )
    pairs = visible_pairs(packed)
    assert pairs == int(dense_mask(packed.groups).sum())
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        policy(packed, 1.0, False)
    text = config.text_config  # its attention computes what is masked too
    hidden_pairs = 4 * text.num_hidden_layers * text.hidden_size * (computed - pairs)
    assert counter.get_total_flops() == update_flops(packed, config) / 3 + hidden_pairs


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
