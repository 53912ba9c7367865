"""Surrogates: the per-token loss as a function of ratio and advantage."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from vlm_rl.objectives.group_losses import GroupLoss, of_tokens
from vlm_rl.objectives.ratios import Ratio, TokenRatio
from vlm_rl.objectives.tokens import Tokens

MAX_LOG_RATIO = 20.0
"""exp of a larger value is bounded here, without a gradient. With A < 0 the unclipped branch of a
long sequence would overflow, and infinity times a gradient of 0 is NaN."""


class SurrogateLoss(NamedTuple):
    """`loss` [B, T] float, and what the band did, each [B, T] bool.

    `inside`: the ratio is within the band, whatever the sign of the advantage. `clipped_*`: the
    token loses its gradient, by the lower end (A < 0), the upper end (A > 0), or the bound on a
    loss that has grown too large (dual clip, A < 0).
    """

    loss: Tensor
    inside: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    clipped_dual: Tensor

    @classmethod
    def unclipped(cls, loss: Tensor, inside: Tensor | None = None) -> "SurrogateLoss":
        """Return the loss of a surrogate that keeps the gradient of every token."""
        no = torch.zeros_like(loss, dtype=torch.bool)
        return cls(loss, ~no if inside is None else inside, no, no, no)


class Surrogate(ABC):
    """The loss of each token. Values in the padding are arbitrary.

    Three facts decide whether a composition is sound. `only_ratios`: the ratios that it is defined
    for, empty for any. `through_ratio`: its gradient goes through the ratio, and not only through
    each token's own log-probability. `reduces_sequence`: it gives a whole sequence one loss.

    `scales_with_advantage`: loss and gradient of a row are 0 where its advantages are 0.
    `group_loss`: what it is the loss of, if that is whole groups.
    """

    only_ratios: ClassVar[tuple[type[Ratio], ...]] = ()
    through_ratio: ClassVar[bool] = True
    reduces_sequence: ClassVar[bool] = False
    scales_with_advantage: ClassVar[bool] = False
    group_loss: GroupLoss | None = None

    @abstractmethod
    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        """Map the log of the importance ratio [B, T] and the tokens to a loss to minimise."""


class Clipped(Surrogate):
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) (PPO, arXiv:1707.06347).

    The minimum is pessimistic. A token is cut off only if moving further would raise its
    advantage-weighted ratio: r > 1 + clip_high with A > 0, or r < 1 - clip_low with A < 0.

    `dual_clip` c bounds what that leaves free, r >> 1 with A < 0. The loss stays below -A c
    (arXiv:1912.09729, 3 there), without a gradient beyond. The two-sided bound of INTELLECT-2,
    min(r, delta) before all else (arXiv:2505.07291, 4 there), is the same function: for A > 0 the
    band has already cut off such a ratio.
    """

    scales_with_advantage = True

    def __init__(self, clip_low: float, clip_high: float, dual_clip: float | None = None) -> None:
        if not 0 < clip_low <= 1:
            raise ValueError(
                f"clip_low must be in (0, 1], got {clip_low}; token ratios use values near 0.2, "
                "sequence means of ratios near 3e-4 (GSPO) or 2e-3 (LUSPO), 1 is no lower end"
            )
        if not clip_high > 0:
            raise ValueError(
                f"clip_high must be > 0, got {clip_high}; it is the distance above 1, "
                "usually as large as clip_low or somewhat larger"
            )
        if dual_clip is not None and not dual_clip > 1 + clip_high:
            raise ValueError(
                f"dual_clip must be above 1 + clip_high = {1 + clip_high:g}, got {dual_clip}; "
                "it bounds ratios that the band lets through, usual values are 3 to 10"
            )
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.dual_clip = dual_clip

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        bound = math.inf if self.dual_clip is None else math.log(self.dual_clip)
        cap = min(bound, MAX_LOG_RATIO)
        ratio = torch.exp(log_ratio.clamp(max=cap))
        low, high = 1 - self.clip_low, 1 + self.clip_high
        advantages = tokens.advantages
        loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        return SurrogateLoss(
            loss,
            inside=(ratio >= low) & (ratio <= high),
            clipped_low=(ratio < low) & (advantages < 0),
            clipped_high=(ratio > high) & (advantages > 0),
            clipped_dual=(log_ratio > cap) & (advantages < 0),
        )


class Reinforce(Surrogate):
    """-A log pi of each token, without a ratio or a band: the plain policy gradient."""

    only_ratios = (TokenRatio,)  # it reads none; this one costs nothing and is logged
    through_ratio = False
    scales_with_advantage = True

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        return SurrogateLoss.unclipped(-tokens.advantages * tokens.logprobs)


class OfGroups(Surrogate):
    """A loss of whole groups, from the terms of each row that are known before the forwards.

    No token loses its gradient. `loss` must give 0 to what has no advantage.
    """

    only_ratios = (TokenRatio,)  # as of `Reinforce`
    through_ratio = False
    scales_with_advantage = True

    def __init__(self, loss: GroupLoss) -> None:
        self.group_loss: GroupLoss = loss

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        return SurrogateLoss.unclipped(of_tokens(tokens.logprobs, tokens.group_terms))


def log_band_loss(
    log_ratio: Tensor, advantages: Tensor, low: Tensor, high: Tensor, dual: Tensor
) -> SurrogateLoss:
    """Return -min(e^l A, e^clip(l, low, high) A), clipped in log space: exp sees bounded values.

    `dual` bounds l for A < 0, as `dual_clip` does. All broadcast to [B, T]; low <= 0 <= high and
    low < dual.
    """
    low, high, dual = (bound.to(log_ratio.dtype) for bound in (low, high, dual))
    cap = dual.clamp(max=MAX_LOG_RATIO)
    positive, negative = advantages > 0, advantages < 0
    upper = torch.where(positive, high.clamp(max=MAX_LOG_RATIO), cap)
    lower = torch.where(negative, low, -torch.inf)
    # not minimum and maximum: they halve the gradient at a bound, where an unmoved sequence can be
    bounded = log_ratio.clamp(lower, upper)
    return SurrogateLoss(
        -torch.exp(bounded) * advantages,
        inside=(log_ratio >= low) & (log_ratio <= high),
        clipped_low=(log_ratio < low) & negative,
        clipped_high=(log_ratio > high) & positive,
        clipped_dual=(log_ratio > cap) & negative,
    )
