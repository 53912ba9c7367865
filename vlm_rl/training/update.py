"""One optimizer update: its record, its denominators, and the one division by them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.distributed.lockstep import Minibatch
from vlm_rl.metrics.routing import RouterTally
from vlm_rl.metrics.statistic import Statistics
from vlm_rl.objectives import Loss, Objective, Sequences, TokenEffects
from vlm_rl.records import Batch, Statistic


@dataclass(frozen=True, eq=False)
class Update:
    """What one optimizer update did.

    `statistics`, `logprobs`, [B, T] of each forward, `tokens` of each forward, and `routers` are of
    this rank, `sequences` of all.
    """

    statistics: Statistics
    sequences: Sequences
    logprobs: Sequence[Tensor]
    tokens: Sequence[TokenEffects]
    routers: RouterTally


def in_groups(
    objective: Objective, minibatch: Minibatch[Batch], logprobs: Sequence[Tensor]
) -> Minibatch[Batch]:
    """Return the minibatch with `group_terms` in its forwards; `logprobs` [B, T] are those of each
    forward, by the policy as it is. Every rank calls it."""
    assert not len(minibatch.left_out), "a loss of groups needs all rows"
    terms = objective.group_terms(minibatch.rows, torch.cat([*logprobs]), ranks.all_sum)
    parts = terms.split([len(forward) for forward in minibatch.forwards])
    pairs = zip(minibatch.forwards, parts, strict=True)
    forwards = tuple(replace(forward, group_terms=part) for forward, part in pairs)
    return replace(minibatch, forwards=forwards)


def count_normalizers(objective: Objective, minibatch: Minibatch[Batch]) -> dict[str, Tensor]:
    """Count the denominator of each term over forwards and ranks, before any backward. Rows left
    out of the forwards count too."""
    counts: dict[str, Tensor] = {}
    for rows in (*minibatch.forwards, minibatch.left_out):
        for name, count in objective.normalizers(rows).items():
            counts[name] = counts.get(name, 0) + count
    return {name: ranks.all_sum(count) for name, count in counts.items()}


def left_out(minibatch: Minibatch[Batch]) -> Statistic:
    """Return the share of trained tokens that are in no forward."""
    sizes = (rows.completion_mask.sum() for rows in (minibatch.left_out, minibatch.rows))
    return Statistic(*sizes)


def divided(loss: Loss, normalizers: dict[str, Tensor]) -> Tensor:
    """Sum the terms, each divided by its normalizer; 0 if no rank has anything to count."""
    terms = [sums.sum() / normalizers[name].clamp(min=1) for name, sums in loss.terms.items()]
    return torch.stack(terms).sum()
