"""One optimizer update: its record, its denominators, and the one division by them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.distributed.lockstep import Minibatch
from vlm_rl.metrics.statistic import Statistics
from vlm_rl.objectives import Loss, Objective, Sequences
from vlm_rl.records import Batch


@dataclass(frozen=True, eq=False)
class Update:
    """What one optimizer update did.

    `statistics` and `logprobs` [B, T], those of its forwards, are of this rank, `sequences` of all.
    """

    statistics: Statistics
    sequences: Sequences
    logprobs: Tensor


def count_normalizers(objective: Objective, minibatch: Minibatch[Batch]) -> dict[str, Tensor]:
    """Count the denominator of each term over forwards and ranks, before any backward."""
    counts: dict[str, Tensor] = {}
    for forward in minibatch.forwards or [minibatch.rows]:
        for name, count in objective.normalizers(forward).items():
            counts[name] = counts.get(name, 0) + count
    return {name: ranks.all_sum(count) for name, count in counts.items()}


def divided(loss: Loss, normalizers: dict[str, Tensor]) -> Tensor:
    """Sum the terms, each divided by its normalizer; 0 if no rank has anything to count."""
    terms = [sums.sum() / normalizers[name].clamp(min=1) for name, sums in loss.terms.items()]
    return torch.stack(terms).sum()
