"""Advantages that also read the other groups of the step."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.advantages.advantage import Advantage, refuse_epsilon, tells_apart
from vlm_rl.advantages.per_group import Centered, Normalized
from vlm_rl.records import Rollout


class BatchNormalized(Advantage):
    """A_i = (R_i - mean of the group) / (std of the step + epsilon), the sample deviation of all
    scored rewards (arXiv:2508.08221; ScaleRL, arXiv:2510.13786)."""

    def __init__(self, epsilon: float = 1e-4) -> None:
        refuse_epsilon(epsilon)
        self.epsilon = epsilon

    def __call__(self, rollout: Rollout) -> Tensor:
        centered = Centered()(rollout)
        rewards = rollout.scores.total[rollout.scores.scored]
        if not tells_apart(rewards):
            return centered
        return centered / (rewards.std() + self.epsilon)


class Whitened(Advantage):
    """R_i - mean of the group, then whitened over all tokens of the step: minus their mean, over
    sqrt(their variance + 1e-8) (REINFORCE++-baseline, arXiv:2501.03262).

    Mean and unbiased variance are over all scored completions, each weighted by its length, as
    published. Groups without a signal still get exactly 0; whitening alone would give them minus
    the mean.
    """

    def __call__(self, rollout: Rollout) -> Tensor:
        centered = Centered()(rollout)
        scored = rollout.scores.scored
        weights = torch.where(scored, rollout.lengths, 0).double()
        count = weights.sum()
        if count < 2:
            return centered
        mean = (weights * centered).sum() / count
        variance = (weights * (centered - mean).square()).sum() / (count - 1)
        whitened = (centered - mean) / torch.sqrt(variance + 1e-8)
        return torch.where(_learning(rollout), whitened, 0.0)


class WhitenedWithBonus(Whitened):
    """`Whitened`, plus `bonus` for what earned the reward of a right answer (DLER,
    arXiv:2510.15110).

    Completions with a reward of at least `bonus_from` - 1e-5 get it, in groups with a signal. Only
    the published code does so, with 0.1; set `bonus_from` to what a right answer is worth whole.
    """

    def __init__(self, bonus: float = 0.1, bonus_from: float = 1.0) -> None:
        for name, value in (("bonus", bonus), ("bonus_from", bonus_from)):
            if not 0 < value < math.inf:
                raise ValueError(
                    f"WhitenedWithBonus.{name} must be above 0 and finite, got {value}; DLER adds "
                    "0.1 to rewards from 1"
                )
        self.bonus, self.bonus_from = bonus, bonus_from

    def __call__(self, rollout: Rollout) -> Tensor:
        whole = rollout.scores.total >= self.bonus_from - 1e-5
        return super().__call__(rollout) + self.bonus * (whole & _learning(rollout)).double()


class ComponentNormalized(Advantage):
    """Every reward term normalised within its group, summed by weight, then normalised over the
    step, so terms of different scale or frequency count alike (GDPO, arXiv:2601.05242).

    A term whose values in a group are all equal adds 0 there. Deviations are sample deviations.
    """

    reads_terms = True

    def __init__(self, epsilon: float = 1e-6) -> None:
        refuse_epsilon(epsilon)
        self.epsilon = epsilon

    def __call__(self, rollout: Rollout) -> Tensor:
        scores = rollout.scores
        normalized = Normalized(epsilon=self.epsilon)
        total = torch.zeros_like(scores.total)
        for name, term in scores.terms.items():
            own = normalized.of_rewards(term, scores.scored, rollout.lengths)
            total += scores.weights[name] * own
        learning = (total != 0).any(dim=1, keepdim=True) & scores.scored
        values = total[scores.scored]
        if not tells_apart(values):
            return total
        standard = (total - values.mean()) / (values.std() + self.epsilon)
        return torch.where(learning, standard, 0.0)


class RankGaussian(Advantage):
    """Ranks mapped to Gaussian quantiles (G2RPO, arXiv:2604.08539): of n values, the k-th smallest
    gets z = sqrt(2) erfinv(2 (k - 1/2) / n - 1); equal values share the mean of their z.

    `across` is what is ranked. "group_then_task", the default and the official code, ranks within
    the group and then ranks all results of a task in the step. "task" ranks the raw rewards of a
    task, as the paper writes. "group" ranks within the group only. Groups without a signal are in
    no ranking and get exactly 0; a second one would rank their zeros among the others.
    """

    def __init__(
        self, across: Literal["group_then_task", "task", "group"] = "group_then_task"
    ) -> None:
        self.across = across

    def __call__(self, rollout: Rollout) -> Tensor:
        learning = _learning(rollout)
        values = rollout.scores.total
        if self.across != "task":
            values = torch.zeros_like(values)
            for row, valid in enumerate(learning):
                values[row, valid] = gaussian_ranks(rollout.scores.total[row, valid])
        if self.across == "group":
            return values
        advantages = torch.zeros_like(values)
        for rows in _rows_by_task(rollout).values():
            of_task = torch.zeros_like(learning)
            of_task[rows] = learning[rows]
            advantages[of_task] = gaussian_ranks(values[of_task])
        return advantages


def gaussian_ranks(values: Tensor, tolerance: float = 1e-9) -> Tensor:
    """Return Gaussian quantiles [n] of the ranks of `values` [n]; 0 for fewer than two.

    Values closer than `tolerance` are ties: equal values may differ by the rounding of their sums.
    """
    count = len(values)
    if count < 2:
        return torch.zeros_like(values)
    ordered, order = values.sort()
    ranks = torch.arange(1, count + 1, dtype=torch.float64, device=values.device)
    quantiles = torch.erfinv(2 * (ranks - 0.5) / count - 1) * 2**0.5
    ties = torch.cat([ordered.new_zeros(1), (ordered.diff() > tolerance).double()]).cumsum(0).long()
    sums = torch.zeros(count, dtype=torch.float64).index_add(0, ties, quantiles)
    shared = sums[ties] / torch.bincount(ties, minlength=count)[ties]
    unsorted = torch.empty_like(values)
    unsorted[order] = shared
    return unsorted


def _learning(rollout: Rollout) -> Tensor:
    """Return [P, G] bool: the scored completions of groups with a signal."""
    scores = rollout.scores
    groups = zip(scores.total, scores.scored, strict=True)
    apart = [tells_apart(total[scored]) for total, scored in groups]
    return torch.tensor(apart)[:, None] & scores.scored


def _rows_by_task(rollout: Rollout) -> Mapping[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(rollout.prompts):
        rows.setdefault(prompt.problem.task, []).append(row)
    return rows
