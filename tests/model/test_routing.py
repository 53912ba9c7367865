"""Routers of a mixture against transformers' own: what they chose, and choices put in their place.

Broken on purpose, one at a time, each seen red: the token before measured; weights of given experts
not renormalised, or their probabilities detached; probabilities left out of the repetition of a
checkpointed layer.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.mixtures import MIXTURES, router_logits, routers
from tests.support.tiny import FAMILIES, build_checkpoint, prompts_of, random_rows, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.experts import mix
from vlm_rl.model.policy import Policy
from vlm_rl.model.routing import RouterStats
from vlm_rl.records import Rows

LENGTHS = (9, 1, 0, 14, 5)

every_mixture = pytest.mark.parametrize("family", MIXTURES)


@pytest.fixture(scope="module")
def policies(checkpoints: dict[str, Path]) -> dict[str, Policy]:
    return {family: sharp_policy(checkpoints[family]) for family in MIXTURES}


def rows_of(folder: Path) -> Rows:
    return random_rows(prompts_of(PromptEncoder(str(folder)), "mixed"), LENGTHS)


def routing(policy: Policy, rows: Rows) -> RouterStats:
    stats = policy.logprobs(rows, temperature=1.0, with_balance=True).routing
    assert stats is not None
    return stats


def with_experts(rows: Rows, policy: Policy, seed: int | None = None) -> Rows:
    """Give each row experts at random, but those of a prompt alike in all of its rows."""
    config = policy.model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed or 0)

    def draw(tokens: int) -> Tensor:
        shape = (tokens, policy.num_routers, config.num_experts)
        order = torch.rand(shape, generator=generator).argsort(-1)
        return order[..., : config.num_experts_per_tok].to(torch.uint8)

    prompts = [draw(len(prompt)) for prompt in rows.prompts]
    own = [
        torch.cat([prompts[owner], draw(max(length - 1, 0))])
        for owner, length in zip(rows.row_prompt.tolist(), rows.lengths.tolist(), strict=True)
    ]
    return replace(rows, experts=tuple(own))


@every_mixture
def test_routers_are_measured_as_in_the_plain_forward_on_completion_tokens_alone(
    family: str, policies: dict[str, Policy], checkpoints: dict[str, Path]
) -> None:
    policy, rows = policies[family], rows_of(checkpoints[family])
    config = policy.model.config.get_text_config()
    with torch.no_grad():
        stats, expected = routing(policy, rows), router_logits(policy, rows)
    num_tokens = int(rows.completion_mask.sum())
    assert len(expected) == policy.num_routers == len(stats.counts)
    chosen = [logits.topk(config.num_experts_per_tok).indices for logits in expected]
    counts = [torch.bincount(c.flatten(), minlength=config.num_experts) for c in chosen]
    assert stats.counts.tolist() == [c.tolist() for c in counts]
    assert int(stats.counts.sum()) == num_tokens * len(counts) * config.num_experts_per_tok
    probs = torch.stack([logits.softmax(-1) for logits in expected])
    entropy = -(probs * probs.log()).sum(-1).mean(0)
    torch.testing.assert_close(stats.entropy, entropy, rtol=0, atol=1e-5)
    torch.testing.assert_close(stats.probs, probs.mean(0), rtol=0, atol=1e-5)
    assert stats.loads is not None
    torch.testing.assert_close(stats.loads.sum(0), sum(counts) / len(counts), rtol=1e-6, atol=0)
    assert entropy.max() < 0.97 * torch.tensor(config.num_experts).log()  # they are not flat


@every_mixture
@pytest.mark.parametrize("replays", [False, True])
def test_checkpointing_changes_neither_values_nor_gradients(
    family: str, replays: bool, checkpoints: dict[str, Path]
) -> None:
    """Also of two forwards before either backward: each layer is repeated with its own experts."""
    folder = checkpoints[family]
    rows = rows_of(folder)
    results = []
    for checkpointing in (False, True):
        policy = sharp_policy(folder)
        policy.replays_experts = replays
        if checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        losses = []
        for seed in (1, 2):
            given = with_experts(rows, policy, seed)
            stats = policy.logprobs(given, temperature=1.0, with_balance=True)
            assert stats.routing is not None
            assert stats.routing.probs is not None
            losses.append(stats.logprobs.sum() + stats.routing.probs[:, seed].sum())
        torch.stack(losses).sum().backward()
        results.append({name: p.grad for name, p in policy.named_parameters()})
        results[-1]["counts"] = stats.routing.counts
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        if gradient is not None:
            assert torch.equal(results[1][name], gradient), name


@every_mixture
def test_given_experts_are_used_at_the_routers_own_probabilities(
    family: str, policies: dict[str, Policy], checkpoints: dict[str, Path]
) -> None:
    """Against a plain router: softmax, then the given ids, renormalised to 1."""
    policy = policies[family]
    rows = with_experts(rows_of(checkpoints[family]), policy)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    hooks = [r.register_forward_hook(lambda _, __, out: seen.append(out)) for r in routers(policy)]
    policy.replays_experts = True
    try:
        policy.zero_grad()
        stats = policy.logprobs(rows, temperature=1.0)
        stats.logprobs.sum().backward()
    finally:
        policy.replays_experts = False
        for hook in hooks:
            hook.remove()
    given = rows.experts[0]
    assert given is not None
    prompt = len(rows.prompts[0])
    for number, (logits, weights, chosen) in enumerate(seen):
        own = given[:prompt, number].long()
        assert torch.equal(chosen[:prompt], own)
        expected = logits[:prompt].softmax(-1).gather(1, own)
        expected = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(weights[:prompt], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)), rtol=0, atol=1e-5)
    for router in routers(policy):
        assert router.weight.grad.abs().max() > 1e-3  # type: ignore[union-attr]
    assert stats.routing is not None
    assert stats.routing.differing.max() == policy.num_routers


@every_mixture
def test_experts_given_as_they_would_be_chosen_change_no_bit(
    family: str, policies: dict[str, Policy], checkpoints: dict[str, Path]
) -> None:
    policy, rows = policies[family], rows_of(checkpoints[family])
    own: list[Tensor] = []
    hooks = [r.register_forward_hook(lambda _, __, o: own.append(o[2])) for r in routers(policy)]
    with torch.no_grad():
        expected = policy.logprobs(rows, temperature=1.0).logprobs
    for hook in hooks:
        hook.remove()
    packed = torch.stack(own, 1).to(torch.uint8)
    given, start = [], 0
    lengths, owners = rows.lengths.tolist(), rows.row_prompt.tolist()
    for owner, prompt in enumerate(rows.prompts):
        of_prompt = packed[start : start + len(prompt)]
        start += len(prompt)
        for length in (n for n, o in zip(lengths, owners, strict=True) if o == owner):
            given.append(torch.cat([of_prompt, packed[start : start + max(length - 1, 0)]]))
            start += length
    rows = replace(rows, experts=tuple(given))
    policy.replays_experts = True
    with torch.no_grad():
        stats = policy.logprobs(rows, temperature=1.0)
    policy.replays_experts = False
    assert torch.equal(stats.logprobs, expected)
    assert stats.routing is not None
    assert stats.routing.known.all()
    assert not stats.routing.differing.any()


@every_mixture
def test_rows_without_experts_choose_their_own_beside_rows_that_have_some(
    family: str, policies: dict[str, Policy], checkpoints: dict[str, Path]
) -> None:
    policy, rows = policies[family], rows_of(checkpoints[family])
    given = with_experts(rows, policy)
    kept = [
        e if owner == 1 else None for e, owner in zip(given.experts, rows.row_prompt, strict=True)
    ]
    policy.replays_experts = True
    with torch.no_grad():
        plain = policy.logprobs(rows, temperature=1.0).logprobs
        some = policy.logprobs(replace(rows, experts=tuple(kept)), temperature=1.0)
    policy.replays_experts = False
    others = rows.row_prompt != 1
    torch.testing.assert_close(some.logprobs[others], plain[others], rtol=1e-6, atol=1e-5)
    assert (some.logprobs[~others] - plain[~others]).abs().max() > 0.1
    assert some.routing is not None
    # the first token of a prompt's completions is predicted by the prompt
    assert int(some.routing.known.sum()) == int(rows.completion_mask[~others].sum())


@every_mixture
def test_experts_are_computed_in_the_precision_of_autocast(
    family: str, policies: dict[str, Policy]
) -> None:
    """Within the rounding of bfloat16, and not in float32; in float64 one by one."""
    experts = policies[family].get_submodule("model.model.language_model.layers.0.mlp.experts")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, experts.gate_up_proj.shape[-1], generator=generator)  # type: ignore
    chosen = torch.rand(50, experts.num_experts, generator=generator).topk(2).indices  # type: ignore
    weights = torch.rand(50, 2, generator=generator)
    with torch.no_grad():
        plain = mix(experts, hidden, chosen, weights)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = mix(experts, hidden, chosen, weights)
        one_by_one = mix(experts.double(), hidden.double(), chosen, weights.double())
    error = float((rounded - plain).norm() / plain.norm())
    assert 1e-3 < error < 2e-2
    torch.testing.assert_close(one_by_one.float(), plain, rtol=1e-5, atol=1e-5)
    experts.float()


@every_mixture
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_routers_are_all_that_is_frozen(
    family: str, checkpointing: bool, checkpoints: dict[str, Path]
) -> None:
    policy = Policy.from_pretrained(
        str(checkpoints[family]), freeze=["router"], gradient_checkpointing=checkpointing
    )
    frozen = {name for name, p in policy.named_parameters() if not p.requires_grad}
    assert frozen == {
        f"model.model.language_model.layers.{i}.mlp.gate.weight" for i in range(policy.num_routers)
    }
    policy.logprobs(rows_of(checkpoints[family]), temperature=1.0).logprobs.sum().backward()
    assert all(router.weight.grad is None for router in routers(policy))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in MIXTURES])
@pytest.mark.parametrize(
    ("arguments", "key"),
    [({"freeze": ["router"]}, r"policy\.freeze"), ({"router_replay": True}, "router_replay")],
)
def test_dense_families_refuse_what_only_a_mixture_has(
    family: str, arguments: dict, key: str, checkpoints: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=rf"{key}.* is for a mixture of experts.*qwen3_vl_moe"):
        Policy.from_pretrained(str(checkpoints[family]), **arguments)


def test_other_families_are_refused_by_a_line_that_lists_what_works(tmp_path: Path) -> None:
    for name in ("qwen4_exp", "qwen3_moe"):
        folder = build_checkpoint("qwen2_5_vl", tmp_path / name)
        (folder / "config.json").write_text(f'{{"model_type": "{name}"}}')
        with pytest.raises(ValueError, match=rf"'{name}' model; supported are qwen2_vl, .*_moe"):
            Policy.from_pretrained(str(folder))
