"""An objective is a composition: ratio o surrogate o aggregation, plus regularizers.

The trainer never learns which one it runs. A method of the literature is a subclass that fixes
the composition and says its source and published defaults.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_rl.linear_logprobs import TokenStats
from vlm_rl.objectives.aggregations import Aggregation, masked_sum
from vlm_rl.objectives.ratios import Ratio
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.surrogates import Surrogate
from vlm_rl.records import Batch, Statistic

POLICY_TERM = "policy"


class Loss(NamedTuple):
    """`terms` are sums per row [B], coefficients included, to be divided by their normalizers;
    `statistics` are detached."""

    terms: dict[str, Tensor]
    statistics: dict[str, Statistic]


class Objective:
    """J = sum over terms of (sum of its rows) / (its normalizer over the whole update)."""

    def __init__(
        self,
        ratio: Ratio,
        surrogate: Surrogate,
        aggregation: Aggregation,
        regularizers: Sequence[Regularizer] = (),
    ) -> None:
        names = [regularizer.name for regularizer in regularizers]
        if len(set(names)) < len(names):
            raise ValueError(f"regularizers must differ, got {names}; keep one of each")
        self.ratio = ratio
        self.surrogate = surrogate
        self.aggregation = aggregation
        self.regularizers = tuple(regularizers)

    @property
    def needs_reference(self) -> bool:
        """Whether some term reads `Batch.ref_logprobs`."""
        return any(regularizer.needs_reference for regularizer in self.regularizers)

    def normalizers(self, batch: Batch) -> dict[str, Tensor]:
        """These rows' share of each term's denominator: scalar counts, to be added up over
        micro-batches and processes before the first backward."""
        counts = {POLICY_TERM: self.aggregation.count(batch.completion_mask)}
        for regularizer in self.regularizers:
            aggregation = regularizer.aggregation or self.aggregation
            counts[regularizer.name] = aggregation.count(batch.completion_mask)
        return counts

    def __call__(self, stats: TokenStats, batch: Batch) -> Loss:
        """Sums of each term over the rows of `batch`; `stats` are the current policy's [B, T]."""
        mask = batch.completion_mask
        stats = _without_padding(stats, mask)
        token_log_ratio = stats.logprobs - batch.old_logprobs
        log_ratio = self.ratio(token_log_ratio, mask)
        # a sequence ratio joins its row's gradients: 0 * NaN in the padding would reach them all
        advantages = torch.where(mask, batch.advantages, 0.0)
        surrogate = self.surrogate(log_ratio, advantages)
        terms = {POLICY_TERM: self.aggregation.sums(surrogate.loss, mask)}
        per_token = {
            "policy/ratio": torch.exp(log_ratio),
            "policy/clip_frac_low": surrogate.clipped_low,
            "policy/clip_frac_high": surrogate.clipped_high,
            "policy/old_kl": -token_log_ratio,
        }
        for regularizer in self.regularizers:
            values = regularizer(stats, batch)
            aggregation = regularizer.aggregation or self.aggregation
            terms[regularizer.name] = regularizer.coef * aggregation.sums(values, mask)
            per_token[f"policy/{regularizer.name}"] = values
        if stats.entropy is not None:
            per_token["policy/entropy"] = stats.entropy
        return Loss(terms, {name: _token_mean(v, mask) for name, v in per_token.items()})


def _without_padding(stats: TokenStats, mask: Tensor) -> TokenStats:
    """Zeros in the padding. `where` also stops the gradient there, which a later 0 * NaN would
    not."""
    entropy = None if stats.entropy is None else torch.where(mask, stats.entropy, 0.0)
    return TokenStats(torch.where(mask, stats.logprobs, 0.0), entropy)


def _token_mean(values: Tensor, mask: Tensor) -> Statistic:
    return Statistic(masked_sum(values.detach(), mask).sum().double(), mask.sum())
