"""The view of a batch that ratios, surrogates and token weights get."""

from typing import NamedTuple

import torch
from torch import Tensor

from vlm_rl.records import Batch


class Tokens(NamedTuple):
    """All [B, T], with exact zeros in the padding.

    `logprobs` are the policy's now, the only ones with a gradient. `old_logprobs` are those
    before the step's first update, `sampling_logprobs` the engine's. `mask` (bool) marks the
    trained tokens. `group_terms` as in `Batch`.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    sampling_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    group_terms: Tensor | None = None

    @classmethod
    def of(cls, logprobs: Tensor, batch: Batch) -> "Tokens":
        """Clear the padding; `where` also stops its gradient, which a later 0 * NaN would not."""
        mask = batch.completion_mask
        return cls(
            torch.where(mask, logprobs, 0.0),
            torch.where(mask, batch.old_logprobs, 0.0),
            torch.where(mask, batch.sampling_logprobs, 0.0),
            torch.where(mask, batch.advantages, 0.0),
            mask,
            batch.group_terms,
        )

    @property
    def log_ratio(self) -> Tensor:
        """Return log pi - log pi_old of each token, [B, T]."""
        return self.logprobs - self.old_logprobs

    @property
    def lengths(self) -> Tensor:
        """Return lengths [B, 1] int64, to broadcast along tokens: never 0, so they can divide."""
        return self.mask.sum(-1, keepdim=True).clamp(min=1)
