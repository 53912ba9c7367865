"""Memory by arithmetic against what real runs hold, and the command that prints it.

Weights, gradients, moments and the reference must be equal to the byte to those of real runs in
one, two and three processes; the estimate of activations within the factors stated here.

Broken on purpose, one at a time, each seen red: rounding down where FSDP2 cuts; one moment; a
reference that shares frozen weights under FSDP2, or does not under DDP; the tower's rest counted
with the root; an engine that fits without its share, or is never awake in an update; the gate of an
MLP; offloaded state of one process for a node's.
"""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from data_prep.tiny_policy import build_policy, build_processor, save
from tests.support.measured_runs import CASES
from tests.support.places import REPOSITORY, SUPPORT
from tests.support.tiny import problem, random_rows
from vlm_rl import hardware
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.memory.activations import Forward, activations
from vlm_rl.memory.estimate import VLLM, Elsewhere, Run, Transformers, estimate
from vlm_rl.memory.model_shape import by_block, count, dissect
from vlm_rl.memory.published import QWEN2_5_VL
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.packing import pack
from vlm_rl.model.policy import Policy


@pytest.fixture(scope="module")
def measured(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("measured")
    done = subprocess.run(
        [sys.executable, SUPPORT / "measured_runs.py", policy_folder, out],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: json.loads((out / f"{name}.json").read_text()) for name in CASES}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_bytes_of_a_real_run_are_those_of_the_arithmetic(
    policy_folder: Path, measured: dict[str, dict], case: str
) -> None:
    strategy, processes, how = CASES[case]
    anatomy = dissect(AutoConfig.from_pretrained(policy_folder), **how)
    run = Run(processes, strategy=strategy, half=False, with_reference=True)
    items = {item.name: item.nbytes for item in estimate(anatomy, run).gpu}
    found = measured[case]
    parts = found.pop("parts")
    assert found == {"reference": 0} | {name: items[name] for name in found if name in items}
    assert parts == (len(by_block(anatomy.weights)) if strategy == "fsdp2" else 0)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_parameters_are_those_of_the_loaded_policy(
    checkpoints: dict[str, Path], family: str
) -> None:
    folder = str(checkpoints[family])
    config = AutoConfig.from_pretrained(folder)
    both = LoraSettings(rank=3, parts=("vision_tower", "language_model"))
    for how in ({}, {"freeze": ("language_model",)}, {"lora": both}):
        anatomy, policy = dissect(config, **how), Policy.from_pretrained(folder, **how)
        parameters = list(policy.parameters())
        assert count(anatomy.weights) == sum(p.numel() for p in parameters)
        assert count(anatomy.trained) == sum(p.numel() for p in parameters if p.requires_grad)


@pytest.mark.parametrize(
    ("size", "parameters", "adapters"),
    # 36 layers x rank 16 x (inputs + outputs of seven matrices), as configs/*_3b_lora_* has it
    [("3B", 3_754_622_976, 36 * 16 * 51_968), ("7B", 8_292_166_656, None)],
)
def test_published_shapes_have_the_published_number_of_parameters(
    size: str, parameters: int, adapters: int | None
) -> None:
    shape = QWEN2_5_VL[size]
    anatomy = dissect(shape.config(), lora=LoraSettings(rank=16))
    assert count(anatomy.base) == parameters
    assert adapters in (None, count(anatomy.trained))
    assert parameters / 1e9 == pytest.approx(shape.published, abs=0.005)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_near_what_autograd_saves(
    tmp_path: Path, family: str, checkpointing: bool
) -> None:
    """Without the layer at work and the logits, which come and go in the backward."""
    processor = build_processor(family)
    model = build_policy(family, processor.tokenizer, hidden=256, layers=4, vision=256, seed=0)
    save(model, processor, tmp_path)
    encoder = PromptEncoder(str(tmp_path))
    prompts = [encoder.encode(problem("Count <image>", (64, 96), uid=uid)) for uid in "ab"]
    packed = pack(random_rows(prompts, (20, 30, 40, 25)))
    anatomy = dissect(model.config)
    for compute, stream in ((4, 4), (2, 4), (2, 2)):
        policy = Policy.from_pretrained(str(tmp_path), gradient_checkpointing=checkpointing)
        if stream == 2:
            policy.to(torch.bfloat16)
        found = activations(
            anatomy,
            Forward(
                packed.token_ids.shape[1], len(packed.pixel_values), compute, stream, checkpointing
            ),
        )
        estimated = sum(found.values()) - found["layer at work"] - found["logits"]
        assert 1 < estimated / _saved(policy, packed, half=compute == 2) < 1.4


def _saved(policy: Policy, packed: object, *, half: bool) -> int:
    """Bytes of what a forward saves, without the weights themselves."""
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    cast = torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if half else nullcontext()
    with cast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stats = policy(packed, 1.0, True)
    assert stats.logprobs.requires_grad
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


@pytest.fixture
def command(policy_folder: Path) -> list[str]:
    config = REPOSITORY / "configs" / "luspo_qwen2_5_vl_7b_geometry3k.yaml"
    return ["--config", str(config), "--policy.path", str(policy_folder)]


def test_command_answers_for_a_shipped_config(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    hardware.main(command)
    shown = capsys.readouterr().out
    assert "GPUs: 8, nodes: 1, strategy: fsdp2" in shown
    assert re.search(r"vLLM's weights +│ +│ +│ +\d", shown)
    assert re.search(r"80 GB: fits, .* in rollout, of 72.0 that may be used; vLLM has 48.0", shown)


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("trainer.devices", "auto", "trainer.devices=auto is decided by the machine"),
        ("trainer.strategy", "fsdp", "trainer.strategy must be one of"),
    ],
)
def test_command_refuses_in_one_line(
    command: list[str], capsys: pytest.CaptureFixture[str], option: str, value: str, line: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        hardware.main([*command, f"--{option}", value])
    assert line in capsys.readouterr().err


def test_readme_has_the_table_of_the_command() -> None:
    assert "\n".join(hardware.markdown()) in (REPOSITORY / "README.md").read_text()


def test_vllm_takes_its_share_of_the_gpu_in_its_phases_only() -> None:
    anatomy = dissect(QWEN2_5_VL["7B"].config())
    run = {"gpus": 8, "strategy": "fsdp2"}
    asleep, awake = (
        estimate(anatomy, Run(**run, engine=VLLM(share=0.5, sleep=sleep)))
        for sleep in (True, False)
    )
    alone = estimate(anatomy, Run(**run, engine=Elsewhere()))
    assert asleep.needed("update", 80e9) == alone.needed("update", 80e9) == alone.peak
    assert awake.needed("update", 80e9) == alone.peak + 40e9
    assert asleep.needed("rollout", 80e9) == alone.needed("rollout") + 40e9
    assert asleep.fits(80e9)
    assert not awake.fits(80e9)
    # weights of 16.6 GB do not go into 0.2 of 80
    assert not estimate(anatomy, Run(**run, engine=VLLM(share=0.2))).fits(80e9)


def test_own_engine_gathers_the_whole_policy_for_a_rollout() -> None:
    anatomy = dissect(QWEN2_5_VL["3B"].config())
    fsdp2, ddp = (
        {
            item.name: item.nbytes
            for item in estimate(anatomy, Run(8, strategy=strategy, engine=Transformers(64))).gpu
        }
        for strategy in ("fsdp2", "ddp")
    )
    assert fsdp2["whole policy"] == 2 * count(anatomy.weights)
    assert "whole policy" not in ddp
    # 36 layers x 2 heads of 128, keys and values, bfloat16
    assert fsdp2["cache"] == 64 * 8192 * 36 * 2 * 128 * 2 * 2


def test_offloaded_state_is_on_the_cpu_of_each_node() -> None:
    anatomy = dissect(QWEN2_5_VL["3B"].config())
    found = estimate(anatomy, Run(16, nodes=2, strategy="fsdp2_offload"))
    on_cpu = {item.name: item.nbytes for item in found.cpu}
    state = sum(on_cpu[name] for name in ("weights", "gradients", "moments"))
    assert state == pytest.approx(16 * count(anatomy.weights) / 2, rel=1e-3)
    assert not {item.name for item in found.gpu} & {"weights", "gradients", "moments"}
