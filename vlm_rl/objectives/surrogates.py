"""Surrogates: the per-token loss as a function of ratio and advantage."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class SurrogateLoss(NamedTuple):
    """`loss` [B, T] float; `clipped_low`, `clipped_high` [B, T] bool: tokens that the lower or
    upper end of the band has cut off from the gradient."""

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


class Surrogate(ABC):
    """Values in the padding are arbitrary."""

    @abstractmethod
    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> SurrogateLoss:
        """Log of the importance ratio and advantages, both [B, T], to a loss to be minimised."""


class Clipped(Surrogate):
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) (PPO, arXiv:1707.06347).

    The minimum is pessimistic: a token is cut off only where moving further would raise its
    advantage-weighted ratio, r > 1 + clip_high with A > 0 or r < 1 - clip_low with A < 0.
    """

    def __init__(self, clip_low: float, clip_high: float) -> None:
        if not 0 < clip_low < 1:
            raise ValueError(
                f"clip_low must be in (0, 1), got {clip_low}; token ratios use values near 0.2, "
                "sequence means of ratios near 3e-4 (GSPO) or 2e-3 (LUSPO)"
            )
        if not clip_high > 0:
            raise ValueError(
                f"clip_high must be > 0, got {clip_high}; it is the distance above 1, "
                "usually as large as clip_low or somewhat larger"
            )
        self.clip_low = clip_low
        self.clip_high = clip_high

    def __call__(self, log_ratio: Tensor, advantages: Tensor) -> SurrogateLoss:
        ratio = torch.exp(log_ratio)
        low, high = 1 - self.clip_low, 1 + self.clip_high
        loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        return SurrogateLoss(
            loss,
            clipped_low=(ratio < low) & (advantages < 0),
            clipped_high=(ratio > high) & (advantages > 0),
        )
