"""The stream of weights against state_dict, and against peft's own merge; whole, and sharded.

Broken on purpose, one at a time, each seen red:
names not stripped of what peft puts in; LoRA matrices in the stream; gradients not detached; tied
names left out; a full tensor kept in a variable while the next is gathered; deltas left out, added
in place, added in the base's precision, with gradients, where adapters are disabled, of all
adapters or of one that the layer has not; weights, base weights or deltas not gathered; parameters
gathered by a forward instead of sharded ones; each refusal left out; blocks without a number, with
anything fourth, of four components, with the name's last one; a chunk's bound taken exclusively,
before adding, in elements, never reset; the last chunk lost, an empty one, the lone larger tensor
after an empty one; max_bytes 0 taken.
"""

import copy
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vlm_rl.model.families import FAMILIES
from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import blocks, chunks, named_parameters, named_weights

every_family = pytest.mark.parametrize("family", FAMILIES)

TARGETS = r".*(layers|blocks)\.\d+\..*(q_proj|up_proj|down_proj|qkv|fc1|fc2|attn\.proj)"
"""Matrices of language model and vision tower in all families, experts apart."""


def random_model(folder: Path, seed: int = 1) -> Any:
    """Every weight its own value: the zeros and ones of the start could stand for each other."""
    model = Policy.from_pretrained(str(folder)).model
    randomise(model.parameters(), seed)
    return model


def randomise(parameters: Iterable[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.1, generator=generator)


def with_adapters(model: Any, *names: str, **options: Any) -> Any:
    """Wrap by peft, with LoRA matrices that are not 0; the last adapter is active."""
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": TARGETS} | options))
    wrapped = peft.get_peft_model(model, config, adapter_name=names[0] if names else "default")
    for name in names[1:]:
        wrapped.add_adapter(name, config)
        wrapped.set_adapter(name)
    randomise((p for name, p in wrapped.named_parameters() if ".lora_" in name), seed=2)
    return wrapped


def merged_by_peft(wrapped: Any) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = copy.deepcopy(wrapped).merge_and_unload().state_dict()
    return weights


def assert_same(stream: Iterable[tuple[str, Tensor]], expected: dict[str, Tensor]) -> None:
    """Names, their order, and values bit for bit."""
    weights = list(stream)
    assert [name for name, _ in weights] == list(expected)
    for name, weight in weights:
        assert not weight.requires_grad
        assert weight.shape == expected[name].shape, name
        assert torch.equal(weight, expected[name]), name


@every_family
def test_stream_of_a_plain_model_is_its_state_dict(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as where it is not installed
    model = random_model(checkpoints[family])
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert_same(named_weights(model), expected)
    assert torch.equal(expected["lm_head.weight"], model.model.language_model.embed_tokens.weight)


@every_family
def test_parameters_have_the_names_of_the_stream_and_tied_ones_are_the_same(
    family: str, checkpoints: dict[str, Path]
) -> None:
    model = random_model(checkpoints[family])
    parameters = dict(named_parameters(model))
    assert list(parameters) == [name for name, _ in named_weights(model)]
    for name, parameter in parameters.items():
        assert parameter is model.get_parameter(name)
    assert parameters["lm_head.weight"] is model.model.language_model.embed_tokens.weight


@every_family
def test_parameters_below_adapters_keep_their_plain_names(
    family: str, checkpoints: dict[str, Path]
) -> None:
    model = random_model(checkpoints[family])
    parameters = dict(named_parameters(model))
    wrapped = dict(named_parameters(with_adapters(model)))
    assert list(wrapped) == list(parameters)
    assert all(wrapped[name] is parameter for name, parameter in parameters.items())


@every_family
def test_stream_with_adapters_is_what_peft_merges_and_changes_nothing(
    family: str, checkpoints: dict[str, Path]
) -> None:
    model = random_model(checkpoints[family])
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    wrapped = with_adapters(model)
    before = {name: weight.clone() for name, weight in wrapped.state_dict().items()}
    expected = merged_by_peft(wrapped)
    changed = [name for name in base if not torch.equal(base[name], expected[name])]
    for part in ("visual.blocks.1", "language_model.layers.1"):
        assert any(part in name for name in changed)
    assert_same(named_weights(wrapped), expected)
    after = wrapped.state_dict()
    assert after.keys() == before.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight), name


@pytest.mark.parametrize("adapters", [torch.float32, torch.bfloat16], ids=str)
def test_adapters_add_to_weights_in_bfloat16_before_rounding(
    adapters: torch.dtype, checkpoints: dict[str, Path]
) -> None:
    wrapped = with_adapters(random_model(checkpoints["qwen2_5_vl"]).bfloat16())
    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(adapters)
    weights = dict(named_weights(wrapped))
    expected = merged_by_peft(wrapped)
    assert_same(((name, weight.bfloat16()) for name, weight in weights.items()), expected)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert weights[name].dtype == torch.float32
    assert not torch.equal(weights[name], expected[name].float())


def test_only_active_adapters_are_in_the_stream(checkpoints: dict[str, Path]) -> None:
    model = random_model(checkpoints["qwen3_vl"])
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    wrapped = with_adapters(model, "first", "second")
    second = merged_by_peft(wrapped)
    assert_same(named_weights(wrapped), second)
    wrapped.set_adapter("first")
    first = merged_by_peft(wrapped)
    assert_same(named_weights(wrapped), first)
    name = "model.visual.blocks.0.attn.qkv.weight"
    assert not torch.equal(first[name], second[name])
    wrapped.base_model.set_adapter(["first", "second"])
    assert_same(named_weights(wrapped), merged_by_peft(wrapped))
    with wrapped.disable_adapter():
        assert_same(named_weights(wrapped), base)


def test_an_active_adapter_counts_only_where_a_layer_has_it(checkpoints: dict[str, Path]) -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    wrapped = with_adapters(random_model(checkpoints["qwen3_vl"]), target_modules=["q_proj"])
    wrapped.add_adapter("other", peft.LoraConfig(target_modules=["v_proj"]))
    randomise((p for name, p in wrapped.named_parameters() if ".lora_" in name), seed=3)
    wrapped.base_model.set_adapter(["default", "other"])
    assert_same(named_weights(wrapped), merged_by_peft(wrapped))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "q_proj cannot .* DoRA"),
    "bias": ({"lora_bias": True}, "q_proj cannot .* a bias"),
    "saved module": ({"modules_to_save": ["language_model.norm"]}, "norm cannot .* modules_to"),
    "tokens": ({"trainable_token_indices": [1]}, "embed_tokens cannot .* trainable tokens"),
    "tied": ({"target_modules": ["embed_tokens"]}, "embed_tokens cannot .* tied to another"),
    "parameter": ({"target_parameters": ["o_proj.weight"]}, "o_proj cannot .* not a LoRA layer"),
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_stream_refuses_what_its_formula_does_not_describe(
    options: dict[str, Any], message: str, checkpoints: dict[str, Path]
) -> None:
    wrapped = with_adapters(
        random_model(checkpoints["qwen2_5_vl"]), **({"target_modules": ["q_proj"]} | options)
    )
    with pytest.raises(ValueError, match=message):
        next(named_weights(wrapped))


def test_stream_refuses_merged_and_other_adapters(checkpoints: dict[str, Path]) -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    wrapped = with_adapters(random_model(checkpoints["qwen2_5_vl"]))
    wrapped.merge_adapter()
    with pytest.raises(ValueError, match="merged in already"):
        next(named_weights(wrapped))
    config = peft.LoHaConfig(target_modules=["q_proj"])
    wrapped = peft.get_peft_model(random_model(checkpoints["qwen2_5_vl"]), config)
    with pytest.raises(ValueError, match="not a LoRA layer"):
        next(named_weights(wrapped))


def sharded(model: Any, inner: Any) -> Any:
    """Each layer by itself, the rest together, after a forward, which leaves the rest gathered."""
    for layer in (*inner.model.visual.blocks, *inner.model.language_model.layers):
        fully_shard(layer)
    fully_shard(model)
    with torch.no_grad():
        model(input_ids=torch.tensor([[3, 1, 4, 1, 5]]))
    return model


def most_alive(model: nn.Module) -> int:
    """How many gathered tensors of the stream were there, at most, when the next was gathered."""
    gathered: list[weakref.ref[Tensor]] = []
    counts = []
    gather = DTensor.full_tensor

    def watched(tensor: DTensor) -> Tensor:
        counts.append(sum(other() is not None for other in gathered))
        full = gather(tensor)
        gathered.append(weakref.ref(full))
        return full

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DTensor, "full_tensor", watched)
        for _, weight in named_weights(model):
            del weight
    return max(counts)


def run_rank(rank: int, folder: Path, adapters: bool, out: Path) -> None:
    """One of two gloo processes; leaves in `out` what its stream gave it."""
    torch.set_num_threads(1)
    meeting = f"file://{out}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    inner = random_model(folder)
    model = sharded(with_adapters(inner) if adapters else inner, inner)
    parameters = dict(named_parameters(model))
    result: dict[str, Any] = {
        "weights": {name: weight.clone() for name, weight in named_weights(model)},
        "most alive": most_alive(model),
        "local": sum(p.to_local().numel() for p in set(parameters.values())),
    }
    with torch.no_grad():
        parameters["lm_head.weight"].mul_(2)
    result["doubled"] = dict(named_weights(model))["lm_head.weight"]
    torch.save(result, out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("adapters", [False, True], ids=["plain", "with adapters"])
def test_sharded_stream_over_two_gloo_processes_equals_the_whole_one(
    adapters: bool, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = random_model(checkpoints["qwen3_vl"])
    size = sum(parameter.numel() for parameter in model.parameters())
    whole = dict(named_weights(with_adapters(model) if adapters else model))
    arguments = (checkpoints["qwen3_vl"], adapters, tmp_path)
    # forked: processes that import transformers again take ten times as long
    mp.start_processes(run_rank, arguments, nprocs=2, start_method="fork")
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for result in results:
        assert list(result["weights"]) == list(whole)
        for name, weight in result["weights"].items():
            # a delta may be summed in parts over the processes
            torch.testing.assert_close(weight, whole[name], rtol=0, atol=1e-6 * adapters)
        assert result["most alive"] == adapters  # a base weight while its delta is gathered
        assert torch.equal(result["doubled"], 2 * whole["lm_head.weight"])
    assert sum(result["local"] for result in results) == size


BLOCKS = {
    "qwen2_vl": [
        "model.visual.patch_embed",
        "model.visual.blocks.0",
        "model.visual.blocks.1",
        "model.visual.merger",
        "model.language_model.embed_tokens",
        "model.language_model.layers.0",
        "model.language_model.layers.1",
        "model.language_model.norm",
        "lm_head",
    ],
}
BLOCKS["qwen2_5_vl"] = BLOCKS["qwen2_vl"]
BLOCKS["qwen3_vl"] = [
    "model.visual.patch_embed",
    "model.visual.pos_embed",
    *BLOCKS["qwen2_vl"][1:4],
    "model.visual.deepstack_merger_list.0",
    *BLOCKS["qwen2_vl"][4:],
]
BLOCKS["qwen3_vl_moe"] = BLOCKS["qwen3_vl"]
BLOCKS["qwen3_5"] = [
    "model.visual.patch_embed",
    "model.visual.pos_embed",
    *BLOCKS["qwen2_vl"][1:7],
    "model.language_model.layers.2",
    *BLOCKS["qwen2_vl"][7:],
]
BLOCKS["qwen3_5_moe"] = BLOCKS["qwen3_5"]


@every_family
def test_blocks_of_every_family_hold_each_name_once_in_order(
    family: str, checkpoints: dict[str, Path]
) -> None:
    names = list(random_model(checkpoints[family]).state_dict())
    groups = blocks(names)
    assert list(groups) == BLOCKS[family]
    assert [name for block in groups.values() for name in block] == names
    for block, members in groups.items():
        assert all(name.startswith(f"{block}.") for name in members)


def test_blocks_of_a_list_with_ten_layers_and_of_names_that_return() -> None:
    names = ["a.b.c.1.w", "a.b.c.10.d.2.w", "a.b.c.1.v", "a.b.c.x.3.w", "w"]
    assert blocks(names) == {
        "a.b.c.1": ["a.b.c.1.w", "a.b.c.1.v"],
        "a.b.c.10": ["a.b.c.10.d.2.w"],
        "a.b.c": ["a.b.c.x.3.w"],
        "": ["w"],
    }


@pytest.mark.parametrize(
    ("max_bytes", "expected"),
    [
        (1, ["a", "b", "c", "d", "e"]),  # each is larger
        (8, ["ab", "c", "d", "e"]),  # a and b have exactly 8 bytes together
        (15, ["ab", "c", "d", "e"]),
        (16, ["ab", "c", "de"]),
        (1000, ["abcde"]),
    ],
)
def test_chunks_are_full_up_to_the_bound_in_order(max_bytes: int, expected: list[str]) -> None:
    # bytes: a 4, b 4, c 80, d 8, e 8
    sizes = {"a": 1, "b": 1, "c": 20, "d": 2, "e": 2}
    weights = [(name, torch.full((size,), 1.0)) for name, size in sizes.items()]
    parts = list(chunks(iter(weights), max_bytes))
    assert ["".join(name for name, _ in chunk) for chunk in parts] == expected
    assert [id(tensor) for chunk in parts for _, tensor in chunk] == [id(t) for _, t in weights]


def test_chunks_take_no_more_than_they_give_and_refuse_a_bound_below_one() -> None:
    taken: list[int] = []

    def weights() -> Iterable[tuple[str, Tensor]]:
        for index in range(6):
            taken.append(index)
            yield str(index), torch.zeros(2, dtype=torch.bfloat16)

    assert len(next(chunks(weights(), 8))) == 2
    assert taken == [0, 1, 2]  # the third is the one that did not fit
    assert list(chunks([], 8)) == []
    with pytest.raises(ValueError, match="max_bytes must be >= 1, got 0"):
        chunks([], 0)
