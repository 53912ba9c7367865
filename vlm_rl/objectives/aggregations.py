"""From per-token losses to one number: which sums are taken, and what they are divided by.

An aggregation never divides by a count of the batch. It returns a sum per row and, separately, the
count. The training step adds both over micro-batches and ranks and divides once, so no split of the
batch can change the objective. `LocalTokenMean` is the exception, by definition.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of `values` [B, T] where `mask` is True, per row [B]. NaN in the padding is
    harmless."""
    return torch.where(mask, values, 0.0).sum(-1)


class Aggregation(ABC):
    """`values` and `mask` are [B, T]; a row without a True is not a sequence.

    `is_by_row`: what a row adds to numerator and denominator depends on that row alone.
    """

    is_by_row: ClassVar[bool] = False

    @abstractmethod
    def sums(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return each row's share of the numerator, [B]."""

    @abstractmethod
    def count(self, mask: Tensor) -> Tensor:
        """Return these rows' share of the denominator, a scalar int64."""


def _num_sequences(mask: Tensor) -> Tensor:
    return mask.any(-1).sum()


class TokenMean(Aggregation):
    """sum_it x_it / sum_i L_i: every token of the update weighs the same (DAPO)."""

    is_by_row = True

    def sums(self, values: Tensor, mask: Tensor) -> Tensor:
        return masked_sum(values, mask)

    def count(self, mask: Tensor) -> Tensor:
        return mask.sum()


class LocalTokenMean(Aggregation):
    """(1/M) sum_m (sum_{i in m} sum_t x_it / sum_{i in m} L_i) over M micro-batches (BNPO).

    The only one that depends, by definition, on how rows are cut into micro-batches and spread
    over ranks: a token weighs more in a micro-batch of few tokens. A micro-batch without a token
    is not counted. Take `TokenMean` unless you repeat older results.
    """

    def sums(self, values: Tensor, mask: Tensor) -> Tensor:
        return masked_sum(values, mask) / mask.sum().clamp(min=1)

    def count(self, mask: Tensor) -> Tensor:
        return mask.any().long()


class SequenceMeanOfTokenMeans(Aggregation):
    """(1/N) sum_i (1/L_i) sum_t x_it: every sequence weighs the same, a token 1/L (GRPO, GSPO)."""

    is_by_row = True

    def sums(self, values: Tensor, mask: Tensor) -> Tensor:
        return masked_sum(values, mask) / mask.sum(-1).clamp(min=1)

    def count(self, mask: Tensor) -> Tensor:
        return _num_sequences(mask)


class SequenceMeanOfTokenSums(Aggregation):
    """(1/N) sum_i sum_t x_it: a sequence weighs as much as it is long (LUSPO)."""

    is_by_row = True

    def sums(self, values: Tensor, mask: Tensor) -> Tensor:
        return masked_sum(values, mask)

    def count(self, mask: Tensor) -> Tensor:
        return _num_sequences(mask)


class SequenceMeanOfScaledSums(Aggregation):
    """(1/N) sum_i (1/C) sum_t x_it with a constant C, the generation budget (Dr.GRPO)."""

    is_by_row = True

    def __init__(self, constant_tokens: int) -> None:
        if constant_tokens < 1:
            raise ValueError(
                f"constant_tokens must be >= 1, got {constant_tokens}; "
                "give the generation budget, max_completion_tokens"
            )
        self.constant_tokens = constant_tokens

    def sums(self, values: Tensor, mask: Tensor) -> Tensor:
        return masked_sum(values, mask) / self.constant_tokens

    def count(self, mask: Tensor) -> Tensor:
        return _num_sequences(mask)
