"""Importance ratios: how far the policy has moved, per token or per sequence.

Each maps the token log-ratios l = logprobs - old_logprobs, [B, T], to the log of the ratio that
the surrogate sees, also [B, T]. A sequence quantity is broadcast to every token, so padding can
never weigh in sums, masks and per-token terms.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import masked_sum
from vlm_rl.objectives.tokens import Tokens


class Ratio(ABC):
    """The level of the ratio: token, sequence or prefix. Values in the padding are arbitrary."""

    corrects: ClassVar[bool] = False
    """Whether it is against the probabilities that sampled, whoever's they are."""

    @abstractmethod
    def __call__(self, tokens: Tokens) -> Tensor:
        """Return the log of the importance ratio, [B, T]."""


class TokenRatio(Ratio):
    """r_t = exp l_t, each token by itself (PPO, GRPO)."""

    def __call__(self, tokens: Tokens) -> Tensor:
        return tokens.log_ratio


class SequenceMeanRatio(Ratio):
    """s = exp(mean_t l_t): the geometric mean along the sequence (GSPO, arXiv:2507.18071).

    Every token of a row carries its sequence's value; an empty row has ratio 1.
    """

    def __call__(self, tokens: Tokens) -> Tensor:
        mean = masked_sum(tokens.log_ratio, tokens.mask)[:, None] / tokens.lengths
        return torch.broadcast_to(mean, tokens.mask.shape)


class SequenceMeanOwnTokenRatio(SequenceMeanRatio):
    """s_t = sg[s] pi_t / sg[pi_t]: the value of the sequence, but the gradient of the token only
    (GSPO-token, arXiv:2507.18071), so that each token can have its own advantage.

    sg stops the gradient. With one advantage per row the gradient is that of `SequenceMeanRatio`.
    """

    def __call__(self, tokens: Tokens) -> Tensor:
        return _through_own_token(super().__call__(tokens), tokens)


class SequenceSumRatio(Ratio):
    """rho = exp(sum_t l_t): the ratio of the whole sequence's probabilities, the importance weight
    of theory (RLOO with importance sampling, FSPO). Its log grows like sqrt(L)."""

    def __call__(self, tokens: Tokens) -> Tensor:
        return _row_sum(tokens.log_ratio, tokens)


class EngineSequenceSumRatio(SequenceSumRatio):
    """exp(sum_t (log pi - log pi_engine)): against the probabilities that the engine sampled with,
    so the mismatch of engine and trainer is in the ratio and needs no token weight."""

    corrects = True

    def __call__(self, tokens: Tokens) -> Tensor:
        return _row_sum(tokens.logprobs - tokens.sampling_logprobs, tokens)


class PrefixSumRatio(Ratio):
    """rho_t = exp(sum_{u <= t} l_u), the ratio of everything up to the token, with the gradient of
    the token only (CTPO, arXiv:2605.07331). Its log grows like sqrt(t)."""

    def __call__(self, tokens: Tokens) -> Tensor:
        return _through_own_token(tokens.log_ratio.cumsum(-1), tokens)


def _row_sum(values: Tensor, tokens: Tokens) -> Tensor:
    total = masked_sum(values, tokens.mask)[:, None]
    return torch.broadcast_to(total, tokens.mask.shape)


def _through_own_token(log_ratio: Tensor, tokens: Tokens) -> Tensor:
    """Return the value of `log_ratio` with the gradient of `tokens.logprobs`: it adds 0."""
    return log_ratio.detach() + (tokens.logprobs - tokens.logprobs.detach())
