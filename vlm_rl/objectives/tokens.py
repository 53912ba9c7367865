"""What ratios, surrogates and token weights see of a batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from vlm_rl.records import Batch


class Tokens(NamedTuple):
    """All [B, T], with exact zeros in the padding: `logprobs` of the policy now (the only one with
    a gradient), `old_logprobs` at the weights that sampled, `sampling_logprobs` of the engine,
    `advantages`, and the bool `mask` of the tokens that are trained on."""

    logprobs: Tensor
    old_logprobs: Tensor
    sampling_logprobs: Tensor
    advantages: Tensor
    mask: Tensor

    @classmethod
    def of(cls, logprobs: Tensor, batch: Batch) -> "Tokens":
        """`where` also stops the gradient in the padding, which a later 0 * NaN would not."""
        mask = batch.completion_mask
        return cls(
            torch.where(mask, logprobs, 0.0),
            torch.where(mask, batch.old_logprobs, 0.0),
            torch.where(mask, batch.sampling_logprobs, 0.0),
            torch.where(mask, batch.advantages, 0.0),
            mask,
        )

    @property
    def log_ratio(self) -> Tensor:
        """[B, T]: log pi - log pi_old of each token."""
        return self.logprobs - self.old_logprobs

    @property
    def lengths(self) -> Tensor:
        """[B, 1] int64, to be broadcast along tokens: never 0, so that it can divide."""
        return self.mask.sum(-1, keepdim=True).clamp(min=1)
