"""Sums and counts that add over micro-batches, steps and ranks; one division makes a mean."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.records import Statistic

Statistics = dict[str, Statistic]
"""By the name of the metric."""


def mean_of(values: Tensor, mask: Tensor | None = None) -> Statistic:
    """Return the sum and count of `values` (numbers or truth values) where `mask` is True."""
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return Statistic(torch.where(mask, values.double(), 0.0).sum(), mask.sum())


def add_up(total: Statistics, more: Mapping[str, Statistic]) -> Statistics:
    """Return the sums and counts of both, by name."""
    return total | {name: total[name] + s if name in total else s for name, s in more.items()}


def means(statistics: Mapping[str, Statistic]) -> dict[str, float]:
    """Return the means over all ranks.

    A rank without a metric adds nothing to it. A metric with a count of 0 on all ranks is left out.
    """
    own = {name: (float(s.sum), float(s.count)) for name, s in statistics.items()}
    sums: dict[str, tuple[float, float]] = {}
    for part in ranks.gather(own):
        for name, (total, count) in part.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + total, before[1] + count)
    return {name: total / count for name, (total, count) in sums.items() if count > 0}
