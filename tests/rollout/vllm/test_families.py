"""Families with experts or a recurrence: what vLLM's own loaders make of our stream and adapters,
and, marked long, the engine that samples from them.

Broken on purpose, one at a time, each seen red:
    experts not packed anew, vectors cast to bfloat16, experts not transposed, prefixes cached for
        a recurrence, one matrix left out of the adapter -> stream
    kernels not put back after an update without their weights -> engine
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.parameters import also_long
from tests.support.run_helpers import command
from tests.support.tiny import FAMILIES, build_checkpoint, completion_of, sharp_policy
from tests.support.vllm_loading import Loaded, adapters_of, loaded, noise
from tests.support.vllm_setup import MISSING, ROUNDING, Setup, in_process
from vlm_rl.distributed.weights import whole_weights
from vlm_rl.fit import fit
from vlm_rl.model.lora import LoraSettings, add_adapters, save_adapter
from vlm_rl.model.policy import Policy
from vlm_rl.model.saving import published
from vlm_rl.records import Rows
from vlm_rl.run.metrics_csv import read_metrics

pytest.importorskip("vllm", reason=MISSING)

SIMPLER = ("qwen3_vl_moe", "qwen3_5")
"""Of these qwen3_5_moe has both: experts, and blocks with a state."""
PRECISIONS = {"qwen3_vl_moe": "float32", "qwen3_5": "bfloat16", "qwen3_5_moe": "bfloat16"}
RANK = 8


def noisy_policy(checkpoint: Path) -> Policy:
    """Return a policy none of whose weights is the same as another, or round in bfloat16."""
    policy = sharp_policy(checkpoint)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def stream(policy: Policy, factor: float = 1.0) -> Iterator[tuple[str, Tensor]]:
    weights = whole_weights(policy, merge_adapters=True)
    return published(policy.model.config, ((n, w * factor) for n, w in weights))


@pytest.mark.skipif(torch.cuda.is_available(), reason="reads the copies that a CPU packs")
@pytest.mark.parametrize("family", [*map(also_long, SIMPLER), "qwen3_5_moe"])
def test_stream_leaves_in_vllm_what_it_reads_from_a_checkpoint(family: str, tmp_path: Path) -> None:
    """Bit for bit, in every weight and packed matrix, in place of other values."""
    policy = noisy_policy(build_checkpoint(family, tmp_path / "checkpoint"))
    with loaded(policy, tmp_path / "checkpoint", tmp_path, PRECISIONS[family]) as worker:
        from_disk = worker.computed()
        sender = worker.sender(getattr(torch, PRECISIONS[family]))
        sender.send(stream(policy, factor=0.5), one_by_one=True)
        halved = worker.computed()
        assert [n for n, w in from_disk.items() if len(w) and torch.equal(w, halved[n])] == []
        sender.send(stream(policy))
        again = worker.computed()
        assert [n for n, w in from_disk.items() if not torch.equal(w, again[n])] == []
        # all have come, as the end of an update checks, so that none has come twice
        assert sum(w.numel() for _, w in stream(policy)) == worker.num_elements()
        check_adapters(worker, policy, tmp_path)


def check_adapters(worker: Loaded, policy: Policy, folder: Path) -> None:
    """Compare each layer's change by the adapter with peft's, for a model without experts' own."""
    add_adapters(policy.model, LoraSettings(rank=4, alpha=8), base=str(folder), seed=0)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    save_adapter(policy.model, folder / "adapter")
    expected = dict(adapted_layers(policy))
    with adapters_of(worker, folder / "adapter", RANK) as layers:
        packed = worker.model.packed_modules_mapping
        for name, layer in layers.items():
            parent, _, own = name.rpartition(".")
            parts = [expected.pop(f"{parent}.{part}", None) for part in packed.get(own, [own])]
            if any(part is not None for part in parts):
                change = worker.product(layer) - worker.product(layer.base_layer)
                inputs = noise(layer.base_layer, torch.float32)
                deltas = [part.get_delta_weight("default") for part in parts]
                theirs = torch.cat([inputs @ delta.T for delta in deltas], dim=1)
                torch.testing.assert_close(change.float(), theirs, rtol=0.05, atol=0.1)
    assert not expected, f"vLLM has no layer for {list(expected)}"


def adapted_layers(policy: Policy) -> Iterator[tuple[str, Any]]:
    """Yield the policy's layers with adapters by their paths in vLLM."""
    for name, module in policy.model.named_modules():
        if hasattr(module, "base_layer"):
            yield name.replace("model.language_model", "language_model.model"), module


@pytest.mark.long
@pytest.mark.covers("vLLM")
@pytest.mark.parametrize(
    ("family", "alone"),
    [*((family, False) for family in FAMILIES), ("qwen3_5", True)],
    ids=[*(f"{family}, merged" for family in FAMILIES), "qwen3_5, alone"],
)
def test_engine_samples_from_the_policy_with_its_adapters(
    family: str, alone: bool, tmp_path: Path
) -> None:
    """Its checks at the start see that every block of the model reaches it."""
    precision = PRECISIONS.get(family, "float32")
    engine = in_process(precision=precision, adapter_rank=RANK if alone else 0)
    setup = Setup.build(family, tmp_path, engine)
    limit = ROUNDING if precision == "float32" else rounding(setup)
    adapters = LoraSettings(rank=4, alpha=8)
    add_adapters(setup.policy.model, adapters, base=str(tmp_path), seed=0)
    try:
        setup.start()
        assert setup.gaps(setup.generate()).mean() < limit
        if not alone:
            setup.scale("vision_tower")
        change_adapters(setup.policy)
        assert setup.gaps(setup.generate()).mean() > 4 * limit  # it still has the old ones
        engine.update_weights(setup.policy)
        assert setup.gaps(setup.generate()).mean() < limit
    finally:
        engine.close()


def rounding(setup: Setup) -> float:
    """Return twice what bfloat16 moves the policy's own log-probabilities by, in nats a token."""
    groups = [
        [completion_of(torch.randint(350, (24,)).tolist()) for _ in range(4)] for _ in setup.prompts
    ]
    rows = Rows.build(setup.prompts, groups, trained=torch.ones(len(groups), 4, dtype=torch.bool))
    rounded = copy.deepcopy(setup.policy).to(torch.bfloat16)
    with setup.policy.evaluating(), rounded.evaluating():
        exact = setup.policy.logprobs(rows, temperature=1.0).logprobs
        moved = exact - rounded.logprobs(rows, temperature=1.0).logprobs.float()
    return 2 * float(moved[rows.completion_mask].abs().mean())


def change_adapters(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.long
def test_steps_of_a_mixture_are_on_policy_to_float32(tmp_path: Path, data_folder: Path) -> None:
    checkpoint = build_checkpoint("qwen3_vl_moe", tmp_path / "checkpoint")
    engine = {"class_path": "vlm_rl.rollout.VLLMEngine", "init_args": {"kv_cache_gib": 1 / 16}}
    fit(command(checkpoint, data_folder, tmp_path / "run", engine=json.dumps(engine)))
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.csv") if "drift/abs_max" in r]
    assert len(rows) == 6
    assert max(row["drift/abs_max"] for row in rows) < ROUNDING
