"""Objectives in float32: ratios far outside any band, and ten thousand random groups.

Mutations, each seen red:
    MAX_LOG_RATIO left out of any surrogate -> extreme ratios
    the kernel of VESPO as a product of powers -> extreme ratios
    the deviation instead of max == min to find groups without a signal -> random groups
    `clamp(min=1)` left out of a length -> random groups
"""

import random
from dataclasses import replace

import pytest
import torch

from tests.support.objective_cases import (
    ORACLES,
    Row,
    batch_of,
    build,
    discover,
    in_groups,
    stats_of,
    text_prompt,
)
from vlm_rl.advantages import Normalized
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives import VESPO, Loss, Objective
from vlm_rl.records import Batch

OBJECTIVES = [*(build(cls) for cls in discover()), VESPO(behaviour="engine")]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)


def evaluated(
    objective: Objective, logprobs: torch.Tensor, batch: Batch
) -> tuple[Loss, torch.Tensor]:
    """Evaluate in float32 and check that all is finite; return the gradient of the summed terms."""
    leaf = logprobs.detach().float().requires_grad_()
    stats = TokenStats(leaf, None)
    (batch,) = in_groups(objective, [stats], [batch], batch)
    loss = objective(stats, batch, {})
    total = torch.stack([term.sum() for term in loss.terms.values()]).sum()
    total.backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert all(term.isfinite().all() for term in loss.terms.values())
    assert all(s.sum.isfinite() for s in loss.statistics.values())
    return loss, leaf.grad


@every_objective
def test_extreme_ratios_leave_loss_and_gradient_finite(objective):
    rng = random.Random(0)
    sizes = [0.0, 1e-6, 1e-3, 0.3, 5.0, 30.0, 100.0, 1e4]
    rows = []
    for _ in range(400):
        length = rng.randint(1, 6)
        moved = [rng.choice(sizes) * rng.choice([-1, 1]) for _ in range(length)]
        old = [min(0.0, -value) - rng.random() for value in moved]
        new = [a + b for a, b in zip(old, moved, strict=True)]
        engine = [value - rng.choice(sizes) for value in old]
        advantage = rng.choice([0.0, 1e-3, 1.0, 30.0]) * rng.choice([-1, 1])
        rows.append(Row(new, old, old, engine, new, [0] * length, advantage, 0))
    batch = batch_of(rows)
    single = {
        name: getattr(batch, name).float()
        for name in ("old_logprobs", "sampling_logprobs", "advantages")
    }
    loss, _ = evaluated(objective, stats_of(rows).logprobs, replace(batch, **single))
    # NaN if the advantage is 0, else a number
    weight = loss.sequences.weight
    assert weight.isnan().tolist() == [row.advantage == 0 for row in rows]
    assert weight[~weight.isnan()].isfinite().all()


NUM_GROUPS, GROUP_SIZE, WIDTH = 10_000, 4, 5


@pytest.fixture(scope="module")
def groups() -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Return groups of many kinds, current log-probabilities, and the rows without a signal."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    rewards = uniform(NUM_GROUPS, GROUP_SIZE)
    kind = torch.arange(NUM_GROUPS) % 5
    rewards[kind == 0] = (rewards[kind == 0] > 0.5).double()
    rewards[kind == 1] = uniform(NUM_GROUPS, 1)[kind == 1]
    rewards[kind == 2] = 0.9 + 1e-12 * rewards[kind == 2]
    rewards[kind == 3] *= 1e6
    scored = uniform(NUM_GROUPS, GROUP_SIZE) < 0.8
    advantages = Normalized().of_rewards(rewards, scored, torch.ones_like(rewards).long())
    assert advantages.isfinite().all()
    silent = torch.tensor(
        [len(set(row[keep].tolist())) < 2 for row, keep in zip(rewards, scored, strict=True)]
    )
    assert silent.sum() > NUM_GROUPS // 5
    assert (advantages[silent] == 0).all()

    size = (NUM_GROUPS * GROUP_SIZE, WIDTH)
    lengths = torch.randint(WIDTH + 1, size[:1], generator=generator)
    old = -3 * uniform(*size).float()
    moved = torch.randn(size, generator=generator) * 10 ** (
        4 * torch.rand(size, generator=generator) - 3
    )
    batch = Batch(
        prompts=(text_prompt("same"),) * NUM_GROUPS,
        row_prompt=torch.arange(NUM_GROUPS).repeat_interleave(GROUP_SIZE),
        completion_ids=torch.zeros(size, dtype=torch.int64),
        completion_mask=torch.arange(WIDTH) < lengths[:, None],
        sampling_logprobs=old + 0.1 * torch.randn(size, generator=generator),
        old_logprobs=old,
        ref_logprobs=None,
        advantages=advantages.reshape(-1, 1).expand(size).float(),
    )
    return batch, old + moved, silent.repeat_interleave(GROUP_SIZE)


@every_objective
def test_ten_thousand_random_groups_leave_nothing_undefined(objective, groups):
    batch, logprobs, silent = groups
    loss, gradient = evaluated(objective, logprobs, batch)
    policy = loss.terms["policy"]
    empty = ~batch.completion_mask.any(-1)
    assert empty.any()
    assert not policy[empty].any()
    assert not any(values[empty].any() for values in loss.sequences)
    assert not policy[silent].any()
    assert not gradient[empty | silent].any()
    assert gradient.any()


def test_every_preset_is_here():
    assert {type(objective).__name__ for objective in OBJECTIVES} == set(ORACLES)
