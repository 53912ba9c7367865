"""DMPO (arXiv:2605.19461): the policy's distribution over a group, drawn to that of its rewards."""

import math

import torch
from torch import Tensor

from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.group_losses import NEVER, GroupLoss, of_tokens
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.token_weights import Scalars
from vlm_rl.records import Batch


class GroupMatch(GroupLoss):
    """(1/n) sum_i (q_i - p_i)^2 over the n completions of a group, q the softmax of the scores, p
    that of advantage / `temperature`."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, scores: Tensor, advantages: Tensor, members: Tensor, step: int) -> Tensor:
        policy = torch.where(members, scores, NEVER).softmax(1)
        target = torch.where(members, advantages / self.temperature, NEVER).softmax(1)
        apart = torch.where(members, (policy - target).square(), 0.0)
        return apart / members.sum(1, keepdim=True).clamp(min=1)


class DistributionMatching(Regularizer):
    """The mean over groups of `GroupMatch`, of scores z_i = (1/L_i) sum_t log pi_it (DMPO).

    The target is the Boltzmann distribution of the rewards if the advantage is `Centered`, and that
    of the normalised rewards if it is `Normalized`: a softmax does not see what is the same for a
    whole group. A group whose rewards are all equal is drawn to equal probabilities. The paper adds
    it to GRPO. `coef` and `temperature` were not found in it; a copy of others has 1 and 1/15.
    """

    name = "distribution_matching"
    needs_reference = False

    def __init__(self, coef: float, temperature: float) -> None:
        for name, value in (("coef", coef), ("temperature", temperature)):
            if not 0 < value < math.inf:
                raise ValueError(
                    f"DistributionMatching.{name} must be positive and finite, got {value}; "
                    "implementations have 1 and 0.07"
                )
        self.coef = coef
        self.aggregation = SequenceMeanOfTokenMeans()
        self.group_loss = GroupMatch(temperature)

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        return of_tokens(stats.logprobs, batch.group_terms)
