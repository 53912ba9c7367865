"""Memory by arithmetic against what real runs hold, and the command that prints it.

Weights, gradients, moments and the reference must be equal to the byte to those of real runs in
one, two and three ranks; the estimate of activations within the factors stated here.

Broken on purpose, one at a time, each seen red: rounding down where FSDP2 cuts; one moment; a
reference that shares frozen weights under FSDP2, or does not under DDP; the tower's rest counted
with the root; an engine that fits without its share, or is never awake in an update; the gate of an
MLP; offloaded state of one rank for a node's; experts without their rows; a recurrence without its
state in a rollout.
"""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from measurements import memory_table
from tests.support.measured_runs import CASES
from tests.support.places import REPOSITORY, SUPPORT
from tests.support.tiny import build_wide, problem, random_rows
from vlm_rl import hardware
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.memory.estimate import PHASES, Setup, activations, estimate
from vlm_rl.memory.layers import CHUNK
from vlm_rl.memory.model_shape import ModelShape, by_block, count
from vlm_rl.model.families import FAMILIES
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.packing import pack
from vlm_rl.model.policy import Policy
from vlm_rl.rollout.decoding import Decoding
from vlm_rl.rollout.shared_prefix import SharedPrefixLayer, attending


@pytest.fixture(scope="module")
def measured(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("measured")
    done = subprocess.run(
        [sys.executable, SUPPORT / "measured_runs.py", policy_folder, out],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: json.loads((out / f"{name}.json").read_text()) for name in CASES}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_bytes_of_a_real_run_are_those_of_the_arithmetic(
    policy_folder: Path, measured: dict[str, dict], case: str
) -> None:
    strategy, num_ranks, arguments = CASES[case]
    model = ModelShape(AutoConfig.from_pretrained(policy_folder), **arguments)
    setup = Setup(num_ranks, strategy=strategy, half=False, with_reference=True)
    items = estimate(model, setup).items["update"]
    held = measured[case]
    parts = held.pop("parts")
    assert held == {"reference": 0} | {name: items[name] for name in held if name in items}
    assert parts == (len(by_block(model.weights)) if strategy == "fsdp2" else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_loaded_policy(
    checkpoints: dict[str, Path], family: str
) -> None:
    folder = str(checkpoints[family])
    config = AutoConfig.from_pretrained(folder)
    both = LoraSettings(rank=3, parts=("vision_tower", "language_model"))
    routers = [{"freeze": ("router",)}] if FAMILIES[family].routers else []
    for arguments in ({}, {"freeze": ("language_model",)}, {"lora": both}, *routers):
        model = ModelShape(config, **arguments)
        parameters = list(Policy.from_pretrained(folder, **arguments).parameters())
        assert count(model.weights) == sum(p.numel() for p in parameters)
        assert count(model.trained) == sum(p.numel() for p in parameters if p.requires_grad)


@pytest.mark.parametrize(
    ("size", "published", "parameters", "adapters"),
    [  # billions as the model's page shows the sum of its tensors, a tied head counted once;
        # 36 layers x rank 16 x (inputs + outputs of seven matrices), as configs/*_3b_lora_* has it
        ("3B", 3.75, 3_754_622_976, 36 * 16 * 51_968),
        ("7B", 8.29, 8_292_166_656, None),
        ("32B", 33.45, 33_452_718_336, None),
        ("72B", 73.41, 73_410_777_344, None),
        ("3.5-4B", 4.54, 4_539_265_536, None),
        ("30B-A3B", 31.07, 31_070_754_032, None),
    ],
)
def test_published_shapes_have_the_published_number_of_parameters(
    size: str, published: float, parameters: int, adapters: int | None
) -> None:
    model = ModelShape(memory_table.published_config(size), lora=LoraSettings(rank=16))
    assert count(model.base) == parameters
    assert adapters in (None, count(model.trained))
    assert parameters / 1e9 == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_near_what_autograd_saves(
    checkpoints: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """Without the layer at work and the logits, which come and go in the backward. All pieces fill
    the chunks of a recurrence: it pads others, which long ones do not notice."""
    folder = build_wide(checkpoints[family], tmp_path / "wide")
    encoder = PromptEncoder(str(folder))
    prompts = [encoder.encode(problem("Count <image>", (64, 208), uid=uid)) for uid in "ab"]
    assert {len(prompt) for prompt in prompts} == {CHUNK}
    packed = pack(random_rows(prompts, (CHUNK, CHUNK, 2 * CHUNK, 25)))
    shape = ModelShape(AutoConfig.from_pretrained(folder))
    patches = sum(len(image.pixel_values) for image in packed.images.values())
    for checkpointing, (half, strategy) in product(
        (False, True), ((False, "auto"), (True, "auto"), (True, "fsdp2"))
    ):
        policy = Policy.from_pretrained(str(folder), gradient_checkpointing=checkpointing)
        if strategy == "fsdp2":  # which gathers weights in bfloat16
            policy.to(torch.bfloat16)
        setup = Setup(strategy=strategy, half=half, checkpointing=checkpointing)
        kept = activations(shape, setup, packed.token_ids.shape[1], patches)
        estimated = sum(kept.values()) - kept["layer at work"] - kept["logits"]
        assert 1 < estimated / _saved(policy, packed, half=half) < 1.4


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_of_a_row_is_that_of_a_decoding(checkpoints: dict[str, Path], family: str) -> None:
    """Keys and values of a prompt, before its completions have any, and the states of each row."""
    folder, group_size = str(checkpoints[family]), 3
    policy = Policy.from_pretrained(folder)
    encoder = PromptEncoder(folder)
    prompts = [encoder.encode(problem("Count <image>", (32, 64), uid=uid)) for uid in "ab"]
    with policy.evaluating(), attending(policy.part("language_model")):
        layers = Decoding(policy, prompts, group_size)._cache.layers
    held = {"keys": 0, "states": 0}
    for layer in layers:
        if isinstance(layer, SharedPrefixLayer):
            held["keys"] += layer.prefix_keys.nbytes + layer.prefix_values.nbytes
        else:
            states = (*layer.conv_states.values(), *layer.recurrent_states.values())
            held["states"] += sum(state.nbytes for state in states)
    shape = ModelShape(AutoConfig.from_pretrained(folder))
    assert held["keys"] == sum(map(len, prompts)) * shape.cached(4)
    assert held["states"] == len(prompts) * group_size * shape.state(4)
    assert (shape.state(4) > 0) == (FAMILIES[family].recurrence is not None)


def test_a_rollout_has_states_beside_keys_and_values() -> None:
    """Of Qwen3.5-4B: 8 layers of attention with 4 heads of 256, and 24 with 32 states of 128 x 128
    in float32 and 4 columns of 8192 channels."""
    model = ModelShape(memory_table.published_config("3.5-4B"))
    state = 24 * (32 * 128 * 128 * 4 + 4 * 8192 * 2)
    token = 8 * 2 * 4 * 256 * 2
    own = estimate(model, Setup(engine="transformers", rows=16)).items["rollout"]
    assert (own["cache"], own["states"]) == (16 * 8192 * token, 16 * state)
    vllm = estimate(model, Setup(share=0.5)).items["rollout"]
    assert vllm["vLLM's cache"] == 8192 * token + state


def _saved(policy: Policy, packed: object, *, half: bool) -> int:
    """Return the bytes of what a forward saves, without the weights themselves."""
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
    assert re.search(r"vLLM's weights {20,}\d", shown)
    # vLLM takes 0.6 of the GPU
    assert re.search(r"80 GB, 72.0 usable: fits( +[\d.]+){3} +4[89].\d", shown)


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("trainer.devices", "auto", "trainer.devices=auto is left to the machine"),
        ("trainer.strategy", "fsdp", "trainer.strategy must be one of"),
    ],
)
def test_command_refuses_in_one_line(
    command: list[str], capsys: pytest.CaptureFixture[str], option: str, value: str, line: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        hardware.main([*command, f"--{option}", value])
    assert line in capsys.readouterr().err


def test_docs_have_the_table_of_the_command() -> None:
    page = (REPOSITORY / "docs" / "gpus_and_memory.md").read_text()
    assert memory_table.memory_table() in page


def test_vllm_takes_its_share_of_the_gpu_in_its_phases_only() -> None:
    model = ModelShape(memory_table.published_config("7B"))
    asleep, awake = (
        estimate(model, Setup(8, strategy="fsdp2", share=0.5, sleep=sleep))
        for sleep in (True, False)
    )
    alone = estimate(model, Setup(8, strategy="fsdp2", engine="elsewhere"))
    peak = max(map(alone.needed, PHASES))
    assert asleep.needed("update", 80e9) == alone.needed("update", 80e9) == peak
    assert awake.needed("update", 80e9) == peak + 40e9
    assert asleep.needed("rollout", 80e9) == alone.needed("rollout") + 40e9
    assert asleep.fits(80e9)
    assert not awake.fits(80e9)
    # weights of 16.6 GB do not go into 0.2 of 80
    assert not estimate(model, Setup(8, strategy="fsdp2", share=0.2)).fits(80e9)


def test_own_engine_gathers_the_whole_policy_for_a_rollout() -> None:
    model = ModelShape(memory_table.published_config("3B"))
    fsdp2, ddp = (
        estimate(model, Setup(8, strategy=strategy, engine="transformers", rows=64)).items[
            "rollout"
        ]
        for strategy in ("fsdp2", "ddp")
    )
    assert fsdp2["whole policy"] == 2 * count(model.weights)
    assert "whole policy" not in ddp
    # 36 layers x 2 heads of 128, keys and values, bfloat16
    assert fsdp2["cache"] == 64 * 8192 * 36 * 2 * 128 * 2 * 2


def test_offloaded_state_is_on_the_cpu_of_each_node() -> None:
    model = ModelShape(memory_table.published_config("3B"))
    needs = estimate(model, Setup(16, nodes=2, strategy="fsdp2_offload"))
    on_cpu = needs.items["run"]
    state = sum(on_cpu[name] for name in ("weights", "gradients", "moments"))
    assert state == pytest.approx(16 * count(model.weights) / 2, rel=1e-3)
    assert not needs.items["update"].keys() & {"weights", "gradients", "moments"}
