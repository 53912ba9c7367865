"""Terms beside the policy term, each with its own coefficient and aggregation."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives.aggregations import Aggregation
from vlm_rl.objectives.group_losses import GroupLoss
from vlm_rl.objectives.state import Stateful
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO
from vlm_rl.objectives.token_weights import AllSum, Scalars
from vlm_rl.records import Batch

Estimator = Literal["k1", "k2", "k3"]


class Regularizer(ABC):
    """A term of the loss. `name` is its name among the terms and in the metrics. `aggregation` None
    takes that of the policy term. `group_loss` as in `Surrogate`."""

    name: ClassVar[str]
    needs_reference: ClassVar[bool]
    needs_routing: ClassVar[bool] = False
    coef: float
    aggregation: Aggregation | None
    group_loss: GroupLoss | None = None

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        """Count over the whole minibatch; see `TokenWeight.prepare`."""
        return {}

    @abstractmethod
    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        """Return its value per token, [B, T], before the coefficient."""


class KL(Regularizer):
    """Divergence from the frozen reference, per token, with d = log pi - log pi_ref:

    k1 = d;  k2 = d^2 / 2;  k3 = exp(-d) + d - 1  (http://joschu.net/blog/kl-approx.html).

    On-policy the gradient of k2 is that of KL(pi || pi_ref) and the gradient of k3 that of
    KL(pi_ref || pi). The gradient of k1 has mean zero, so k1 regularises nothing as a loss. In k3
    d is at least -20, without a gradient below.
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
        if estimator == "k1":
            warnings.warn(
                "KL with estimator k1 as a loss has a gradient of mean zero; take k2 or k3, or put "
                "k1 into kl_in_reward",
                stacklevel=2,
            )
        self.coef = kl_coef
        self.estimator = estimator
        self.aggregation = aggregation

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        assert batch.ref_logprobs is not None
        difference = stats.logprobs - batch.ref_logprobs
        return divergence(difference, self.estimator)


class CorrectedKL(KL):
    """r_t (exp(-d) + d - 1), r_t = pi / pi_old (DeepSeek-V3.2, arXiv:2512.02556): k3 with the ratio
    that makes its gradient that of KL(pi || pi_ref), also for tokens that an older policy sampled.
    """

    def __init__(self, kl_coef: float, aggregation: Aggregation | None = None) -> None:
        super().__init__(kl_coef, "k3", aggregation)

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        old = torch.where(batch.completion_mask, batch.old_logprobs, 0.0)
        ratio = torch.exp((stats.logprobs - old).clamp(max=MAX_LOG_RATIO))
        return ratio * super().__call__(stats, batch, scalars)


class AdaptiveKL(KL, Stateful):
    """`KL` whose coefficient moves after every update, so that the divergence goes to `target`:

    kl_coef <- kl_coef (1 + rate clip(KL / target - 1, -0.2, 0.2))  (arXiv:1909.08593; rate 0.1).

    KL is the estimator's mean over the update's tokens, in nats; in the paper, over sequences. The
    coefficient is in the checkpoint.
    """

    def __init__(
        self,
        kl_coef: float,
        target: float,
        rate: float = 0.1,
        estimator: Estimator = "k3",
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(kl_coef, estimator, aggregation)
        if not target > 0:
            raise ValueError(f"AdaptiveKL.target must be > 0, got {target}; give nats per token")
        if not 0 < rate < 5:
            raise ValueError(f"AdaptiveKL.rate must be in (0, 5), got {rate}; published is 0.1")
        self.target, self.rate = target, rate

    def observe(self, metrics: Mapping[str, float]) -> None:
        error = max(-0.2, min(0.2, metrics["policy/kl"] / self.target - 1))
        self.coef *= 1 + self.rate * error

    def state_dict(self) -> dict[str, Any]:
        return {"kl_coef": self.coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coef = state["kl_coef"]


def divergence(difference: Tensor, estimator: Estimator) -> Tensor:
    """Return k1, k2 or k3 of d = log pi - log pi_ref, elementwise."""
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            bounded = difference.clamp(min=-MAX_LOG_RATIO)
            return torch.exp(-bounded) + bounded - 1
