"""Terms beside the policy term, each with its own coefficient and aggregation."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vlm_rl.linear_logprobs import TokenStats
from vlm_rl.objectives.aggregations import Aggregation
from vlm_rl.objectives.token_weights import AllSum, Scalars
from vlm_rl.records import Batch

Estimator = Literal["k1", "k2", "k3"]


class Regularizer(ABC):
    """`name` is its name among the terms and in the metrics; `aggregation` None means that of the
    policy term."""

    name: ClassVar[str]
    needs_reference: ClassVar[bool]
    coef: float
    aggregation: Aggregation | None

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        """Once per minibatch, before it is cut into forwards; see `TokenWeight.prepare`."""
        return {}

    @abstractmethod
    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        """Its value per token, [B, T], before the coefficient."""


class KL(Regularizer):
    """Divergence from the frozen reference, per token, with d = log pi - log pi_ref:

    k1 = d;  k2 = d^2 / 2;  k3 = exp(-d) + d - 1  (http://joschu.net/blog/kl-approx.html).

    On-policy the gradient of k2 is that of KL(pi || pi_ref) and the gradient of k3 that of
    KL(pi_ref || pi); the gradient of k1 has mean zero, so k1 regularises nothing as a loss.
    """

    name = "kl"
    needs_reference = True

    def __init__(
        self,
        kl_coef: float,
        estimator: Estimator = "k3",
        aggregation: Aggregation | None = None,
    ) -> None:
        if not kl_coef > 0:
            raise ValueError(
                f"kl_coef must be > 0, got {kl_coef}; to train without it, leave the term out"
            )
        self.coef = kl_coef
        self.estimator = estimator
        self.aggregation = aggregation

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        assert batch.ref_logprobs is not None
        difference = stats.logprobs - batch.ref_logprobs
        return divergence(difference, self.estimator)


def divergence(difference: Tensor, estimator: Estimator) -> Tensor:
    """k1, k2 or k3 of d = log pi - log pi_ref, elementwise."""
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return torch.exp(-difference) + difference - 1
