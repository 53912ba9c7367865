"""The load-balancing term against transformers' own function, and without any cut."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import load_balancing_loss_func

from tests.support.mixtures import MIXTURES, router_logits, routers
from tests.support.tiny import prompts_of, random_rows, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.metrics.routing import loads_by_row
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import GRPO, LoadBalance, Objective
from vlm_rl.records import Batch

every_mixture = pytest.mark.parametrize("family", MIXTURES)

COEF = 0.5


def batch_of(policy: Policy, folder: Path) -> Batch:
    rows = random_rows(prompts_of(PromptEncoder(str(folder)), "mixed"), (9, 1, 0, 14, 5))
    with torch.no_grad():
        stats = policy.logprobs(rows, temperature=1.0, with_balance=True)
    return Batch.of(
        rows,
        old_logprobs=stats.logprobs,
        ref_logprobs=None,
        advantages=torch.zeros(rows.completion_mask.shape),
        expert_loads=loads_by_row(stats.routing, rows.completion_mask),
    )


def update(
    policy: Policy, batch: Batch, max_tokens: int, all_sum=lambda x: x
) -> tuple[float, Tensor]:
    """Return the term of an update, before the coefficient, and the gradient of the routers."""
    objective: Objective = GRPO(regularizers=[LoadBalance(COEF)])
    plan = objective.prepare(batch, all_sum)
    forwards = list(batch.micro_batches(max_tokens))
    tokens = sum(int(objective.normalizers(f)["load_balance"]) for f in forwards)
    policy.zero_grad()
    total = 0.0
    for forward in forwards:
        stats = policy.logprobs(forward, temperature=1.0, with_balance=True)
        term = objective(stats, forward, plan).terms["load_balance"].sum() / tokens / COEF
        term.backward()
        total += float(term.detach())
    return total, torch.stack([r.weight.grad.clone() for r in routers(policy)])  # type: ignore


@every_mixture
def test_load_balance_equals_that_of_transformers(
    family: str, checkpoints: dict[str, Path]
) -> None:
    """Of a whole update in one forward, over its completion tokens, values and gradients."""
    policy = sharp_policy(checkpoints[family])
    batch = batch_of(policy, checkpoints[family])
    config = policy.model.config.get_text_config()
    value, gradient = update(policy, batch, 10**6)
    logits = tuple(router_logits(policy, batch))
    expected = load_balancing_loss_func(logits, config.num_experts, config.num_experts_per_tok)
    assert isinstance(expected, Tensor)
    policy.zero_grad()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-6)
    assert value > config.num_experts_per_tok + 0.01  # what an even load gives
    own = torch.stack([r.weight.grad for r in routers(policy)])  # type: ignore[misc]
    torch.testing.assert_close(gradient, own, rtol=1e-4, atol=1e-6)


@every_mixture
@pytest.mark.parametrize("max_tokens", [1, 90])
def test_load_balance_does_not_depend_on_the_cut_into_micro_batches(
    family: str, max_tokens: int, checkpoints: dict[str, Path]
) -> None:
    policy = sharp_policy(checkpoints[family])
    batch = batch_of(policy, checkpoints[family])
    whole, cut = update(policy, batch, 10**6), update(policy, batch, max_tokens)
    assert cut[0] == pytest.approx(whole[0], rel=1e-6)
    torch.testing.assert_close(cut[1], whole[1], rtol=1e-4, atol=1e-6)


@every_mixture
def test_load_is_that_of_all_ranks(family: str, checkpoints: dict[str, Path]) -> None:
    """Two halves with each other's counts sum to the whole."""
    policy = sharp_policy(checkpoints[family])
    batch = batch_of(policy, checkpoints[family])
    whole, _ = update(policy, batch, 10**6)
    term = LoadBalance(COEF)
    rows = torch.arange(len(batch))
    halves = [batch.select(rows[rows % 2 == half]) for half in (0, 1)]
    counts = [(h.completion_mask.sum(), h.expert_loads.sum(0)) for h in halves]  # type: ignore
    sums = iter([counts[0][0] + counts[1][0], counts[0][1] + counts[1][1]])
    load = term.prepare(halves[0], lambda _: next(sums))["load"]
    assert torch.allclose(load, term.prepare(batch, lambda x: x)["load"])
    total = sum(
        float(term(policy.logprobs(h, temperature=1.0, with_balance=True), h, {"load": load}).sum())
        for h in halves
    )
    assert total / int(batch.completion_mask.sum()) == pytest.approx(whole, rel=1e-6)


@every_mixture
@pytest.mark.long
def test_twenty_steps_of_the_term_alone_even_the_load(
    family: str, checkpoints: dict[str, Path]
) -> None:
    policy = sharp_policy(checkpoints[family])
    optimizer = torch.optim.AdamW([r.weight for r in routers(policy)], lr=1e-2)  # type: ignore
    values = []
    for _ in range(20):
        batch = batch_of(policy, checkpoints[family])
        values.append(update(policy, batch, 10**6)[0])
        optimizer.step()
    assert values[-1] < values[0]
    even = policy.model.config.get_text_config().num_experts_per_tok
    assert values[-1] - even < (values[0] - even) / 2


def test_coefficient_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match=r"LoadBalance\.coef must be > 0, got 0"):
        LoadBalance(0.0)


def test_objective_says_that_it_needs_the_routing_before_the_first_update() -> None:
    plain, balanced = GRPO(), GRPO(regularizers=[LoadBalance(COEF)])
    assert (plain.needs_routing, plain.looks_ahead) == (False, False)
    assert (balanced.needs_routing, balanced.looks_ahead) == (True, True)
    assert balanced.needs_all_rows
