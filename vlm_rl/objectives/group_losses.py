"""Losses of whole groups, the same however a minibatch is cut into forwards and spread over ranks.

Such a loss is a function of one score for each completion of a group: z_i, the mean over its tokens
of log pi. Before an update the scores of the whole minibatch are computed without gradients, and
with them the loss L of each group and its slopes w_i = dL / dz_i. A forward then adds share_i +
w_i (z_i - sg[z_i]) for each of its rows, where sg stops the gradient and the shares of a group sum
to L. So the sum over all rows has the value and the gradient of the loss, also if a group is in two
forwards.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import masked_sum
from vlm_rl.objectives.token_weights import AllSum
from vlm_rl.records import Batch

NEVER = -1e30
"""The logarithm of what is not there: exp gives 0, and a whole group of it no NaN."""


class GroupLoss(ABC):
    """A loss of the scores of a group, of its completions with a trained token.

    `is_relative`: scores are the means of log pi - log pi_old.
    """

    is_relative: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, scores: Tensor, advantages: Tensor, members: Tensor, step: int) -> Tensor:
        """Return each completion's share of the loss of its group, [P, G].

        `scores` and `advantages` are float64 [P, G], `members` bool; what is no member is arbitrary
        and must get 0. `step` counts from 0.
        """


def group_terms(loss: GroupLoss, batch: Batch, logprobs: Tensor, all_sum: AllSum) -> Tensor:
    """Return the shares and the slopes of the rows of a minibatch, [B, 2] float64.

    `logprobs` [B, T] are those of the policy as it is. Every rank calls it. Both are already times
    N / P, of the sequences and the groups of all ranks: the mean over sequences is then the mean
    over groups.
    """
    members = batch.completion_mask.any(-1)
    places, size = _places(batch)
    groups = members.new_zeros(len(batch.prompts), dtype=torch.bool)
    groups[batch.row_prompt.to(groups.device)[members]] = True
    scale = all_sum(members.sum()).double() / all_sum(groups.sum()).clamp(min=1)

    def padded(values: Tensor) -> Tensor:
        whole = values.new_zeros(len(batch.prompts) * size)
        return whole.index_put((places,), values).reshape(len(batch.prompts), size)

    with torch.enable_grad():
        scores = _scores(loss, batch, logprobs).requires_grad_()
        first = torch.where(batch.completion_mask, batch.advantages, 0.0)[:, :1].double()
        advantages = first.sum(-1)  # of the first token; rows of width 0 have none
        shares = loss(padded(scores), padded(advantages), padded(members), batch.step)
        (slopes,) = torch.autograd.grad(shares.sum(), scores)
    own = torch.stack([shares.detach().reshape(-1)[places], slopes], -1)
    return torch.where(members[:, None], own, 0.0) * scale


def of_tokens(logprobs: Tensor, terms: Tensor | None) -> Tensor:
    """Return what each token adds, [B, T]: the mean over a row's tokens is that of the row."""
    assert terms is not None, "the terms of a minibatch are computed before its forwards"
    share, slope = terms.to(logprobs.dtype).unbind(-1)
    return share[:, None] + slope[:, None] * (logprobs - logprobs.detach())


def _places(batch: Batch) -> tuple[Tensor, int]:
    """Return the place [B] of each row in [P, G], flat, and G; rows are ordered by prompt."""
    owners = batch.row_prompt.to(batch.completion_mask.device)
    sizes = torch.bincount(owners, minlength=len(batch.prompts))
    first = sizes.cumsum(0) - sizes
    size = int(sizes.max()) if len(owners) else 0
    within = torch.arange(len(owners), device=owners.device) - first[owners]
    return owners * size + within, size


def _scores(loss: GroupLoss, batch: Batch, logprobs: Tensor) -> Tensor:
    mask = batch.completion_mask
    values = logprobs.detach().double()
    if loss.is_relative:
        values = values - batch.old_logprobs.double()
    return masked_sum(values, mask) / mask.sum(-1).clamp(min=1)
