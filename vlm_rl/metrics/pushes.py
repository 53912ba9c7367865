"""Which way a step pushes the mean length of completions, to first order.

The gradient of a step is sum_i f_i grad log pi(y_i), with a push f_i of each completion. Let a
policy be free in the probability p of every completion, a softmax, and follow the natural gradient.
Then p changes by eta p (f - E f), the mean length by eta Cov(L, f), and the policy by a KL
divergence of eta^2 Var(f) / 2. So

    push = Cov(L, f) / (std(L) std(f)),

the correlation of length and push, is the change of mean length in standard deviations of the
length, for a step of sqrt(2 KL) = 1. It has no dimension, lies in [-1, 1], and does not depend on
what the learning rate, AdamW or a normalizer make of the scale of f.

At ratio 1 there are two kinds of objectives:

- `push_sum`: f = A, if a sequence is the sum of its tokens (LUSPO, Dr.GRPO, RLOO-IS, FSPO, token
  means). As E[A] = 0, the numerator is E[A L].
- `push_mean`: f = A / L, if it is their mean (GRPO, GSPO). The numerator is -E[L] E[A / L].

`push` is that of the run's own objective, with f measured from the gradients of all updates of the
step, clipping included.

Over the whole batch, the choice of length is taken as one that all problems share. By problem each
has its own: Cov and Var are those within groups, averaged over the groups before the division.

A completion without a trained token (empty, not scored, or left out as truncated) has f = 0, but
its length counts, an empty one as 0. So does a group without signal. If nothing is pushed, or there
is a single length, there is no push: the metric is absent, not 0. Noise alone gives a push of about
1 / sqrt(number of completions).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.objectives import Sequences


def push_metrics(
    lengths: Tensor, advantages: Tensor, trained: Tensor, updates: Sequence[Sequences]
) -> dict[str, float]:
    """Return `length/push...` over all ranks; every rank calls it.

    `lengths` [P, G] are tokens of this rank's completions, `trained` [P, G] bool those with a
    token in the loss. `updates` are the sequences of all ranks, an entry per update.
    """
    own = (lengths.cpu(), advantages.cpu().double(), trained.cpu())
    everyone = (torch.cat(parts) for parts in zip(*ranks.gather(own), strict=True))
    lengths, advantages, trained = everyone
    kinds = {
        "push_sum": sequence_sum_pushes(advantages, trained),
        "push_mean": sequence_mean_pushes(lengths, advantages, trained),
    }
    values = {"push": push_of_updates(lengths, updates)}
    for name, pushes in kinds.items():
        values[name] = scaled_push(lengths, pushes)
        values[f"{name}_by_problem"] = scaled_push_by_problem(lengths, pushes)
    return {f"length/{name}": value for name, value in values.items() if value is not None}


def sequence_sum_pushes(advantages: Tensor, trained: Tensor) -> Tensor:
    """Return f = A, [P, G] float64, 0 if not `trained`."""
    return torch.where(trained, advantages.double(), 0.0)


def sequence_mean_pushes(lengths: Tensor, advantages: Tensor, trained: Tensor) -> Tensor:
    """Return f = A / L, [P, G] float64, 0 if not `trained` or empty."""
    return sequence_sum_pushes(advantages, trained & (lengths > 0)) / lengths.clamp(min=1)


def scaled_push(lengths: Tensor, pushes: Tensor) -> float | None:
    """Return Cov(L, f) / (std(L) std(f)) over all completions [P, G]; None without a signal."""
    return _correlation(_centred(lengths.flatten()), _centred(pushes.flatten()))


def scaled_push_by_problem(lengths: Tensor, pushes: Tensor) -> float | None:
    """Return the same with means taken within each group [P, G], summed over groups before the
    division."""
    return _correlation(_centred(lengths).flatten(), _centred(pushes).flatten())


def push_of_updates(lengths: Tensor, updates: Sequence[Sequences]) -> float | None:
    """Return the push that the updates gave: `lengths` [P, G] of all completions, those that no
    update computed included, whose f is 0."""
    if not updates or not lengths.numel():
        return None
    done = Sequences.joined(updates)
    computed, pushes = done.length.cpu().double(), done.push.cpu().double()
    centred = _centred(lengths.flatten())
    covariance = (pushes * (computed - lengths.double().mean())).sum()
    variance = pushes.square().sum() - pushes.sum().square() / lengths.numel()
    return _ratio(covariance, centred.square().sum(), variance)


def _centred(values: Tensor) -> Tensor:
    """Subtract the mean along the last dimension. Equal integers give exactly 0."""
    values = values.double()
    return values - values.mean(-1, keepdim=True) if values.numel() else values


def _correlation(lengths: Tensor, pushes: Tensor) -> float | None:
    return _ratio((lengths * pushes).sum(), lengths.square().sum(), pushes.square().sum())


def _ratio(covariance: Tensor, of_lengths: Tensor, of_pushes: Tensor) -> float | None:
    scale = of_lengths.clamp(min=0).sqrt() * of_pushes.clamp(min=0).sqrt()
    return float(covariance / scale) if scale > 0 else None
