"""The packed forward against the plain one, and everything else that a policy promises.

Broken on purpose, one at a time, each seen red:
the first token of a completion predicted by the one laid out before it; rotary positions of
completions one too far; a mask without causality or without the prompt's condition; predictors in
another order; temperature not handed on; placeholders not banned; ones in the padding; frozen
parameters copied, or trained ones shared, with the reference; the reference left in training mode;
nothing frozen; `evaluating` always going back to training.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.oracles import plain_logits, plain_logprobs
from tests.support.tiny import (
    FAMILIES,
    PROBLEMS,
    completion_of,
    prompts_of,
    random_rows,
    sharp_policy,
)
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.attention import Group
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.packing import pack
from vlm_rl.model.policy import Policy
from vlm_rl.records import Rows

LENGTHS = (9, 1, 0, 14, 5)
"""An empty completion among them; the fifth row is masked."""

every_family = pytest.mark.parametrize("family", FAMILIES)
every_batch = pytest.mark.parametrize("name", PROBLEMS)


@pytest.fixture(scope="module")
def encoders(checkpoints: dict[str, Path]) -> dict[str, PromptEncoder]:
    return {family: PromptEncoder(str(folder)) for family, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def policies(checkpoints: dict[str, Path]) -> dict[str, Policy]:
    """Read only, but for gradients."""
    return {family: sharp_policy(folder) for family, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def double_policies(checkpoints: dict[str, Path]) -> dict[str, Policy]:
    return {family: sharp_policy(folder).double() for family, folder in checkpoints.items()}


def gradients(policy: Policy, logprobs: Tensor, entropy: Tensor) -> dict[str, Tensor]:
    """Those of a random combination of all values; parameters without one are left out."""
    generator = torch.Generator().manual_seed(1)
    shape = logprobs.shape
    first, second = (torch.randn(shape, generator=generator) / logprobs.numel() for _ in range(2))
    policy.zero_grad()
    (logprobs * first + entropy * second).sum().backward()
    named = policy.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None and p.grad.any()}


def packed_values(policy: Policy, rows: Rows, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    stats = policy.logprobs(rows, temperature=temperature, with_entropy=True)
    assert stats.entropy is not None
    return stats.logprobs, stats.entropy


@pytest.mark.covers("shared forward")
@pytest.mark.usefixtures("wide_delta_rules")
@every_family
@every_batch
def test_packed_forward_equals_plain_forward_in_float64(
    family: str,
    name: str,
    double_policies: dict[str, Policy],
    encoders: dict[str, PromptEncoder],
) -> None:
    policy = double_policies[family]
    rows = random_rows(prompts_of(encoders[family], name), LENGTHS)
    packed = packed_values(policy, rows, 0.7)
    plain = plain_logprobs(
        policy.model, rows, temperature=0.7, banned_ids=policy.banned_ids, padding="right"
    )
    assert plain[0].min() < -5  # nothing flat is compared
    for ours, oracle in zip(packed, plain, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=0, atol=1e-9)
    ours, oracle = gradients(policy, *packed), gradients(policy, *plain)
    assert ours.keys() == oracle.keys()
    largest = max(gradient.abs().max() for gradient in oracle.values())
    for parameter, gradient in oracle.items():
        # transformers computes its norms in float32 whatever the precision of the model
        torch.testing.assert_close(ours[parameter], gradient, rtol=0, atol=1e-6 * float(largest))


@every_family
@pytest.mark.parametrize("padding", ["left", "right"])
def test_packed_forward_equals_plain_forward_in_float32(
    family: str, padding: str, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies[family]
    rows = random_rows(prompts_of(encoders[family], "mixed"), LENGTHS)
    packed = packed_values(policy, rows)
    plain = plain_logprobs(policy.model, rows, banned_ids=policy.banned_ids, padding=padding)
    for ours, oracle in zip(packed, plain, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-6, atol=1e-5)
    ours, oracle = gradients(policy, *packed), gradients(policy, *plain)
    for parameter, gradient in oracle.items():
        torch.testing.assert_close(ours[parameter], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("wide_delta_rules")
@every_family
@pytest.mark.parametrize("updates", [4, pytest.param(20, marks=pytest.mark.long)])
def test_updates_end_with_the_weights_of_the_plain_forward(
    family: str, updates: int, checkpoints: dict[str, Path], encoders: dict[str, PromptEncoder]
) -> None:
    ends = []
    for is_packed in (True, False):
        policy = sharp_policy(checkpoints[family]).double()
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
        for step in range(updates):
            rows = random_rows(prompts_of(encoders[family], "mixed"), LENGTHS[step % 3 :], step)
            if is_packed:
                logprobs = policy.logprobs(rows, temperature=1.0).logprobs
            else:
                logprobs, _ = plain_logprobs(policy.model, rows, banned_ids=policy.banned_ids)
            signs = torch.tensor([1, -1]).repeat(len(rows))[: len(rows), None]
            (logprobs * signs).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(policy.state_dict())
    start = sharp_policy(checkpoints[family]).double().state_dict()
    moved = max(float((ends[0][name] - start[name]).abs().max()) for name in start)
    assert moved > updates * 5e-5
    for name, weight in ends[1].items():
        # AdamW divides by the size of a gradient, also by one that is rounding
        torch.testing.assert_close(ends[0][name], weight, rtol=0, atol=1e-5)


@every_family
@pytest.mark.parametrize(
    "broken",
    [
        lambda groups: (Group(sum(group.size for group in groups), ()),),
        lambda groups: tuple(Group(g.prompt, (g.size - g.prompt,)) for g in groups),
        lambda groups: tuple(Group(n, ()) for g in groups for n in (g.prompt, *g.completions)),
    ],
    ids=["all see all before", "completions see each other", "completions see no prompt"],
)
def test_comparison_with_plain_forward_sees_broken_attention(
    family: str,
    broken: Callable[[tuple[Group, ...]], tuple[Group, ...]],
    policies: dict[str, Policy],
    encoders: dict[str, PromptEncoder],
) -> None:
    policy = policies[family]
    packed = pack(random_rows(prompts_of(encoders[family], "mixed"), LENGTHS))
    with torch.no_grad():
        right = policy(packed, 1.0, False).logprobs
        wrong = policy(replace(packed, groups=broken(packed.groups)), 1.0, False).logprobs
    assert (wrong - right).abs().max() > 0.5


def test_layout_of_two_prompts_written_out(encoders: dict[str, PromptEncoder]) -> None:
    prompts = prompts_of(encoders["qwen3_vl"], "no image") * 2
    first, second = [[completion_of([7, 8]), completion_of([])], [completion_of([9, 5, 6])] * 2]
    packed = pack(Rows.build(prompts, [first, second], torch.tensor([[1, 1], [0, 1]]) > 0))
    ids = prompts[0].token_ids.tolist()
    n, p = len(ids), prompts[0].next_position
    assert packed.groups == (Group(n, (2,)), Group(n, (3,)))
    assert packed.token_ids.tolist() == [[*ids, 7, 8, *ids, 9, 5, 6]]
    expected = [*range(p), p, p + 1, *range(p), p, p + 1, p + 2]
    assert packed.positions[:, 0].tolist() == [expected] * 3
    assert packed.targets.tolist() == [7, 8, 9, 5, 6]
    assert packed.predictors.tolist() == [n - 1, n, 2 * n + 1, 2 * n + 2, 2 * n + 3]


@every_family
@pytest.mark.parametrize("max_tokens", [1, 90])
def test_logprobs_do_not_depend_on_micro_batches(
    family: str,
    max_tokens: int,
    policies: dict[str, Policy],
    encoders: dict[str, PromptEncoder],
) -> None:
    policy = policies[family]
    rows = random_rows(prompts_of(encoders[family], "mixed"), LENGTHS)
    with torch.no_grad():
        whole = packed_values(policy, rows)
        parts = [packed_values(policy, micro) for micro in rows.micro_batches(max_tokens)]
    assert len(parts) > 1
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(pieces), one, rtol=1e-6, atol=1e-5)


@every_family
def test_logprobs_do_not_depend_on_the_order_of_prompts_and_rows(
    family: str, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies[family]
    prompts = prompts_of(encoders[family], "mixed")
    rows = random_rows(prompts, LENGTHS)
    size = len(LENGTHS)
    backwards = torch.arange(len(rows)).flip(0)
    turned = Rows(
        prompts=tuple(prompts[::-1]),
        row_prompt=torch.arange(len(prompts)).repeat_interleave(size),
        completion_ids=rows.completion_ids[backwards],
        completion_mask=rows.completion_mask[backwards],
        sampling_logprobs=rows.sampling_logprobs[backwards],
    )
    with torch.no_grad():
        forwards = packed_values(policy, rows)[0]
        other = packed_values(policy, turned)[0]
    torch.testing.assert_close(other[backwards], forwards, rtol=1e-6, atol=1e-5)


@every_family
def test_padding_is_zero_and_never_read(
    family: str, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies[family]
    rows = random_rows(prompts_of(encoders[family], "one image"), LENGTHS)
    with torch.no_grad():
        before = packed_values(policy, rows)
        rows.completion_ids[~rows.completion_mask] = policy.model.config.image_token_id
        after = packed_values(policy, rows)
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first, second)
        assert not first[~rows.completion_mask].any()
        assert first[rows.completion_mask].all()


@every_family
def test_a_batch_of_empty_completions_is_a_legal_forward_and_backward(
    family: str, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies[family]
    prompts = prompts_of(encoders[family], "one image")
    nothing = Rows.build(prompts, [[completion_of([]), completion_of([])]], torch.ones(1, 2) > 0)
    masked = Rows.build(prompts, [[completion_of([5, 6])]], torch.zeros(1, 1) > 0)
    for rows in (nothing, masked):
        policy.zero_grad()
        logprobs, entropy = packed_values(policy, rows)
        assert logprobs.shape == rows.completion_mask.shape
        (logprobs.sum() + entropy.sum()).backward()
        seen = [p.grad for p in policy.parameters()]
        assert all(gradient is not None and not gradient.any() for gradient in seen)


@every_family
def test_banned_ids_have_probability_zero_and_the_rest_adds_up_to_one(
    family: str, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies[family]
    prompts = prompts_of(encoders[family], "one image")
    vocabulary = policy.model.config.get_text_config().vocab_size
    one_token = [[completion_of([0]) for _ in range(vocabulary)]]
    packed = pack(Rows.build(prompts, one_token, torch.ones(1, vocabulary) > 0))
    with torch.no_grad():
        logprobs = policy(replace(packed, targets=torch.arange(vocabulary)), 0.7, False).logprobs
    first = logprobs.exp()
    tokenizer = encoders[family].tokenizer
    placeholders = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    banned = tokenizer.convert_tokens_to_ids(placeholders)
    assert sorted(policy.banned_ids.tolist()) == sorted(banned)
    assert first[banned].tolist() == [0.0] * 4
    assert (first == 0).sum() == 4
    assert float(first.double().sum()) == pytest.approx(1, abs=1e-5)


@every_family
@pytest.mark.parametrize("name", ["one image", "several images", "mixed"])
def test_vision_tower_runs_once_and_sees_each_image_once(
    family: str, name: str, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies[family]
    rows = random_rows(prompts_of(encoders[family], name), (3, 4, 5, 6))
    seen: list[int] = []
    hook = policy.part("vision_tower").register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    with torch.no_grad(), hook:
        policy.logprobs(rows, temperature=1.0)
    patches = [len(p.pixel_values) for p in rows.prompts if p.pixel_values is not None]
    assert seen == [sum(patches)]


@pytest.mark.covers("shared forward")
@every_family
def test_gradient_checkpointing_changes_no_gradient(
    family: str, checkpoints: dict[str, Path], encoders: dict[str, PromptEncoder]
) -> None:
    rows = random_rows(prompts_of(encoders[family], "mixed"), LENGTHS)
    folder = str(checkpoints[family])
    plain = Policy.from_pretrained(folder)
    recomputing = Policy.from_pretrained(folder, gradient_checkpointing=True)
    ours, theirs = (gradients(p, *packed_values(p, rows)) for p in (recomputing, plain))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-7)


@every_family
def test_frozen_tower_gets_no_gradients_and_is_shared_with_the_reference(
    family: str, checkpoints: dict[str, Path], encoders: dict[str, PromptEncoder]
) -> None:
    policy = sharp_policy(checkpoints[family], freeze=["vision_tower"])
    rows = random_rows(prompts_of(encoders[family], "one image"), LENGTHS)
    named = gradients(policy, *packed_values(policy, rows))
    assert named
    assert not any(".visual." in name for name in named)
    reference = policy.frozen_copy()
    assert not any(p.requires_grad for p in reference.parameters())
    assert not any(module.training for module in reference.modules())
    assert policy.training
    assert any(p.requires_grad for p in policy.parameters())
    theirs = dict(reference.named_parameters())
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, theirs[name])
        is_shared = parameter.data_ptr() == theirs[name].data_ptr()
        assert is_shared == (".visual." in name), name
    before = reference.logprobs(rows, temperature=1.0).logprobs
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    assert not before.requires_grad
    assert torch.equal(reference.logprobs(rows, temperature=1.0).logprobs, before)
    assert (
        reference.model.lm_head.weight is reference.model.model.language_model.embed_tokens.weight
    )


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_restores_the_mode_also_after_an_error(
    training: bool, checkpoints: dict[str, Path]
) -> None:
    policy = Policy.from_pretrained(str(checkpoints["qwen2_5_vl"]))
    assert policy.training
    policy.train(training)

    def fail_inside() -> None:
        with policy.evaluating():
            assert not any(module.training for module in policy.modules())
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert all(module.training == training for module in policy.modules())
    assert torch.is_grad_enabled()


@every_family
def test_saved_policy_loads_with_equal_weights(
    family: str, policies: dict[str, Policy], tmp_path: Path
) -> None:
    policies[family].save(tmp_path)
    loaded = Policy.from_pretrained(str(tmp_path)).state_dict()
    for name, weight in policies[family].state_dict().items():
        assert torch.equal(loaded[name], weight), name


def test_entropy_is_computed_only_on_demand(
    policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies["qwen3_vl"]
    rows = random_rows(prompts_of(encoders["qwen3_vl"], "no image"), (3, 2))
    stats = policy.logprobs(rows, temperature=1.0)
    assert isinstance(stats, TokenStats)
    assert stats.entropy is None
    raw = plain_logits(policy.model, rows).log_softmax(-1)
    assert raw.exp()[..., policy.banned_ids].min() > 0  # what the ban takes away is not nothing
