"""A policy with LoRA: what is trained, what is saved, what the reference is; all families.

Broken on purpose, one at a time, each seen red:
    a matrix missing in a family, or the merger in it; `parts` not read -> on_every_matrix
    B not starting at 0 -> first_policy; adapters left on in the reference, peft's own switch for
        it -> reference_is_the_base; a `frozen_copy` for it -> reference_holds_no_weight
    input gradients left on -> gradient_checkpointing; dropout of 0.1 -> ratio_is_1
    the seed not set, the global generator used -> seed
    the adapter's weights not set, or alpha dropped, on loading; base and adapter swapped in
        `name_or_path` -> loads_everywhere, adapter_on_an_adapter
    each line of `base_of` and `merge_into` that raises -> unusable_adapter
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from tests.support.oracles import plain_logprobs
from tests.support.run_helpers import build_module, problems, same, weights
from tests.support.tiny import FAMILIES, completion_of, prompts_of, random_rows, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.gather import Places
from vlm_rl.distributed.weights import save_pretrained
from vlm_rl.model.lora import LoraSettings, adapters_off
from vlm_rl.model.policy import Policy
from vlm_rl.model.reference import reference_of
from vlm_rl.model.weights import is_adapter, named_weights
from vlm_rl.records import Rows
from vlm_rl.training.module import OptimizerSettings
from vlm_rl.training.optimizer import build_optimizer

peft = pytest.importorskip("peft", reason="peft is an optional dependency")

BOTH = LoraSettings(rank=4, alpha=6, parts=("language_model", "vision_tower"))
LENGTHS = (9, 1, 0, 14, 5)

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def sharp(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of checkpoints whose every token depends on all that it should."""
    folders = {}
    for family, folder in checkpoints.items():
        copied = tmp_path_factory.mktemp(family) / "base"
        shutil.copytree(folder, copied)
        sharp_policy(folder).save(copied)
        folders[family] = str(copied)
    return folders


def with_learned_adapters(folder: str, lora: LoraSettings = BOTH, **options: Any) -> Policy:
    """As after training: B is not 0."""
    policy = Policy.from_pretrained(folder, lora=lora, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.05, generator=generator)
    return policy


def rows_of(folder: str) -> Rows:
    return random_rows(prompts_of(PromptEncoder(folder), "mixed"), LENGTHS)


def logprobs(policy: Any, rows: Rows) -> Tensor:
    values: Tensor = policy.logprobs(rows, temperature=1.0).logprobs
    return values


def numbers_held(*holders: Any) -> int:
    """In all parameters of modules and of what holds modules, one that is shared counted once."""
    modules = [m for holder in holders for m in (holder, *vars(holder).values())]
    parameters = [p for m in modules if isinstance(m, nn.Module) for p in m.parameters()]
    return sum({p.data_ptr(): p.numel() for p in parameters}.values())


@every_family
@pytest.mark.parametrize(
    "parts", [("language_model",), ("vision_tower",), ("vision_tower", "language_model")]
)
def test_adapters_are_on_every_matrix_of_attention_and_mlp_and_all_that_is_trained(
    family: str, parts: tuple[Any, ...], checkpoints: dict[str, Path]
) -> None:
    plain = Policy.from_pretrained(str(checkpoints[family]))
    stacks = {
        "language_model": plain.part("language_model").layers,
        "vision_tower": plain.part("vision_tower").blocks,
    }
    expected = {id(m) for part in parts for m in stacks[part].modules() if isinstance(m, nn.Linear)}
    names = {name for name, module in plain.model.named_modules() if id(module) in expected}
    policy = Policy.from_pretrained(str(checkpoints[family]), lora=LoraSettings(4, 8, parts))
    adapted = {name for name, m in policy.model.named_modules() if hasattr(m, "base_layer")}
    assert adapted == names
    assert len(names) >= 8 * len(parts)
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == is_adapter(name), name
    start = plain.model.state_dict()
    assert same(dict(named_weights(policy.model, merge_adapters=False)), dict(start))


@every_family
def test_first_policy_is_the_checkpoint_and_another_one_later(
    family: str, sharp: dict[str, str]
) -> None:
    folder = sharp[family]
    rows = rows_of(folder)
    with torch.no_grad():
        base = logprobs(Policy.from_pretrained(folder), rows)
        assert torch.equal(logprobs(Policy.from_pretrained(folder, lora=BOTH), rows), base)
        learned = logprobs(with_learned_adapters(folder), rows)
    assert (learned - base).abs().max() > 0.01


def test_adapters_start_as_the_seed_says_whatever_was_drawn_before(
    checkpoints: dict[str, Path],
) -> None:
    def start(seed: int, drawn: int) -> dict[str, Tensor]:
        torch.manual_seed(drawn)
        policy = Policy.from_pretrained(str(checkpoints["qwen3_vl"]), lora=BOTH, seed=seed)
        assert torch.initial_seed() == drawn  # the global generator is as it was
        return dict(policy.state_dict())

    assert same(start(0, 1), start(0, 2))
    assert not same(start(0, 1), start(1, 1))


@every_family
def test_reference_is_the_base_bit_for_bit_and_leaves_the_policy_as_it_is(
    family: str, sharp: dict[str, str]
) -> None:
    folder = sharp[family]
    rows, policy = rows_of(folder), with_learned_adapters(folder)
    reference = reference_of(policy)
    states = {name: p.requires_grad for name, p in policy.named_parameters()}
    with torch.no_grad():
        before = logprobs(policy, rows)
        base = logprobs(Policy.from_pretrained(folder), rows)
    values = logprobs(reference, rows)
    assert not values.requires_grad
    assert torch.equal(values, base)
    with torch.no_grad():
        assert torch.equal(logprobs(policy, rows), before)
    with adapters_off(policy.model):  # a sharding wrapper may look meanwhile
        assert {name: p.requires_grad for name, p in policy.named_parameters()} == states
    with pytest.raises(KeyError), adapters_off(policy.model):
        raise KeyError
    with torch.no_grad():
        assert torch.equal(logprobs(policy, rows), before)


def test_reference_holds_no_weight(sharp: dict[str, str]) -> None:
    held = {}
    for lora in (None, BOTH):
        policy = Policy.from_pretrained(sharp["qwen2_5_vl"], lora=lora)
        held[lora] = numbers_held(policy, reference_of(policy)) / numbers_held(policy)
    assert held == {None: 2, BOTH: 1}


@pytest.mark.covers("LoRA")
@every_family
def test_gradients_of_adapters_are_those_of_the_plain_forward(
    family: str, sharp: dict[str, str]
) -> None:
    """With gradient checkpointing; float32 sums in two orders."""
    rows = rows_of(sharp[family])
    policy = with_learned_adapters(sharp[family], gradient_checkpointing=True)
    packed = logprobs(policy, rows)
    plain, _ = plain_logprobs(policy.model, rows, banned_ids=policy.banned_ids)
    torch.testing.assert_close(packed, plain, rtol=1e-6, atol=1e-5)
    adapters = {name: p for name, p in policy.named_parameters() if is_adapter(name)}
    ours, theirs = (
        torch.autograd.grad(values.square().mean(), [*adapters.values()])
        for values in (packed, plain)
    )
    for name, one, other in zip(adapters, ours, theirs, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm(), name


@every_family
def test_gradient_checkpointing_changes_no_gradient_and_leaves_a_frozen_tower_alone(
    family: str, sharp: dict[str, str]
) -> None:
    folder = sharp[family]
    rows = rows_of(folder)
    for lora in (BOTH, LoraSettings(rank=4)):
        gradients = []
        for switch in (True, False):
            policy = with_learned_adapters(folder, lora, gradient_checkpointing=switch)
            needed = _merger_inputs_need_gradients(policy)
            logprobs(policy, rows).square().sum().backward()
            assert needed == [lora is BOTH]
            named = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
            assert set(named) == {n for n, _ in policy.named_parameters() if is_adapter(n)}
            gradients.append(named)
        for name, gradient in gradients[1].items():
            assert gradient.any(), name
            torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-5, atol=1e-5)


def _merger_inputs_need_gradients(policy: Policy) -> list[bool]:
    """Return a list that each forward adds to: whether the tower's last hidden needs a gradient."""
    needed: list[bool] = []
    merger: Any = policy.part("vision_tower").merger
    merger.register_forward_pre_hook(lambda _, args: needed.append(args[0].requires_grad))
    return needed


def test_ratio_is_1_before_the_first_update_of_a_rollout_in_bf16_too(sharp: dict[str, str]) -> None:
    folder = sharp["qwen2_5_vl"]
    encoder = PromptEncoder(folder)
    module = build_module(with_learned_adapters(folder), encoder)
    prompts = [encoder.encode(problem) for problem in problems(2)]
    groups = [[completion_of(range(40, 50 + row))] * 2 for row in range(2)]
    rows = Rows.build(prompts, groups, torch.ones(2, 2, dtype=torch.bool))
    cut = module.lockstep.cut(rows, Places.of([len(prompts)]))
    with torch.autocast("cpu", torch.bfloat16):
        old = module.forwards.logprobs(module.policy, rows, cut)
        now = module.policy.logprobs(rows, temperature=1.0, with_entropy=True).logprobs
    assert torch.equal(old, now)


def test_vision_lr_is_that_of_adapters_in_the_tower(checkpoints: dict[str, Path]) -> None:
    policy = Policy.from_pretrained(str(checkpoints["qwen2_5_vl"]), lora=BOTH)
    names = {id(p): name for name, p in policy.named_parameters()}
    optimizer, _ = build_optimizer(policy, OptimizerSettings(lr=1e-3, vision_lr=1e-4), 1)
    by_lr = {
        group["lr"]: [names[id(p)] for p in group["params"]] for group in optimizer.param_groups
    }
    assert all(".visual." in name and is_adapter(name) for name in by_lr[1e-4])
    assert all(".language_model." in name and is_adapter(name) for name in by_lr[1e-3])
    assert sum(map(len, by_lr.values())) == sum(map(is_adapter, names.values()))


@pytest.mark.covers("LoRA")
@every_family
def test_saved_policy_loads_everywhere_alone_and_merged(
    family: str, sharp: dict[str, str], tmp_path: Path
) -> None:
    rows, policy = rows_of(sharp[family]), with_learned_adapters(sharp[family])
    alone, merged = tmp_path / "alone", tmp_path / "merged"
    policy.save(alone)
    before = weights(policy)
    save_pretrained(policy, merged, merge_adapter=True)
    assert same(dict(policy.state_dict()), before)

    def auto(folder: Path | str) -> Any:
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)

    # nothing is left to random numbers or to a warning: the stream has every weight of the policy
    expected = dict(named_weights(policy.model))
    models = {
        "ours": Policy.from_pretrained(str(alone)).model,
        "ours, merged": Policy.from_pretrained(str(merged)).model,
        "transformers": auto(alone),
        "transformers, merged": auto(merged),
        "peft": peft.PeftModel.from_pretrained(auto(sharp[family]), alone).get_base_model(),
    }
    with torch.no_grad():
        wanted = logprobs(policy, rows)
        for name, model in models.items():
            stream = dict(named_weights(model))
            assert same(stream, expected), name
            got = logprobs(Policy(model), rows)
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-5, msg=name)
    assert all(p.requires_grad for p in models["ours"].parameters())
    assert not (alone / "config.json").exists()  # transformers would look for the base here
    assert not any("adapter" in path.name for path in merged.iterdir())


def test_adapter_on_an_adapter_names_the_one_below(sharp: dict[str, str], tmp_path: Path) -> None:
    rows = rows_of(sharp["qwen2_5_vl"])
    with_learned_adapters(sharp["qwen2_5_vl"]).save(tmp_path / "first")
    second = with_learned_adapters(str(tmp_path / "first"), LoraSettings(rank=2))
    second.save(tmp_path / "second")
    with torch.no_grad():
        loaded = logprobs(Policy.from_pretrained(str(tmp_path / "second")), rows)
        torch.testing.assert_close(loaded, logprobs(second, rows), rtol=0, atol=1e-5)


def _edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def _drop_a_weight(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    kept = load_file(file)
    del kept[min(kept)]
    save_file(kept, file)


def _add_a_weight(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.more.lora_A.weight": torch.zeros(1)}, file)


UNUSABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "base gone": (
        _edit_config(base_model_name_or_path="/nowhere/base"),
        "is an adapter, and its base cannot be used: /nowhere/base is not a folder",
    ),
    "base unnamed": (_edit_config(base_model_name_or_path=None), "names no base_model_name"),
    "no adapter config": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "is not a description of an adapter",
    ),
    "another rank": (_edit_config(r=3), "does not fit its base: Error"),
    "another method": (_edit_config(peft_type="IA3"), "only LoRA is supported"),
    "a weight missing": (_drop_a_weight, "1 weights are on one side only, the first of them "),
    "a weight too many": (_add_a_weight, "1 weights are on one side only, the first of them "),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "does not fit its base",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_adapter_is_answered_by_one_line_with_its_path(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    Policy.from_pretrained(str(checkpoints["qwen2_5_vl"]), lora=BOTH).save(folder)
    damage, reason = UNUSABLE[kind]
    damage(folder)
    with pytest.raises(ValueError, match=str(folder)) as raised:
        Policy.from_pretrained(str(folder))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
