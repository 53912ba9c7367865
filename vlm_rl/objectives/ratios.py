"""Importance ratios: how far the policy has moved, per token or per sequence.

Each maps the token log-ratios l = logprobs - old_logprobs, [B, T], to the log of the ratio that
the surrogate sees, [B, T] as well: a sequence quantity is broadcast to every token, so that sums,
masks and per-token terms can never be weighted by padding.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import masked_sum


class Ratio(ABC):
    """A ratio level. Values in the padding are arbitrary."""

    @abstractmethod
    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        """`log_ratio`, `mask` [B, T] -> log of the importance ratio [B, T]."""


class TokenRatio(Ratio):
    """r_t = exp l_t, each token by itself (PPO, GRPO)."""

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return log_ratio


class SequenceMeanRatio(Ratio):
    """s = exp(mean_t l_t): the geometric mean along the sequence (GSPO, arXiv:2507.18071).

    Every token of a row carries its sequence's value; an empty row has ratio 1.
    """

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        mean = masked_sum(log_ratio, mask) / mask.sum(-1).clamp(min=1)
        return torch.broadcast_to(mean[:, None], log_ratio.shape)
