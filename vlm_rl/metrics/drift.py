"""How far the rollout engine's log-probabilities are from the policy's own at the same weights.

d = `old_logprobs` - `sampling_logprobs`, float64, on the trained tokens that updates compute. Both
describe the same weights, so d is how far off-policy an update is before the policy has moved:
rounding, and every fault of the engine. The measures are `drift/<measure>` for all rows,
`drift/image/...` and `drift/text/...` for prompts with and without images, and
`drift/length_decile_01/...` to `_10` from the shortest completions to the longest:

    abs_mean          mean of |d| over tokens, nats
    abs_max           largest |d| of a token, nats
    k3                mean of exp(d) - 1 - d over tokens, an estimate of KL(engine, policy), nats
    perplexity_ratio  perplexity of a completion under the policy over that under the engine,
                      exp(-mean d over its tokens), geometric mean over rows
    ess               effective sample size (sum w)^2 / (N sum w^2), a share in (0, 1], of N rows
                      with w = exp(sum of d over the row): the share that importance weights leave
    token_ess         the same of N tokens with w = exp(d)

Weights are clamped to [exp(-20), exp(20)]. A row without a trained token counts nowhere. A d that
is not finite counts as -inf, which makes the first four measures inf.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.metrics.statistic import Statistics
from vlm_rl.records import Batch, Statistic

WEIGHT_CAP_LOG = 20.0
NUM_DECILES = 10
DECILES = tuple(f"drift/length_decile_{decile:02}/" for decile in range(1, NUM_DECILES + 1))
SETS = ("drift/", "drift/image/", "drift/text/", *DECILES)
MOMENTS = (
    "log_perplexity_ratio",
    "weight",
    "weight_squared",
    "token_weight",
    "token_weight_squared",
)
"""Means from which `measures` computes the measures that are not means."""


@dataclass(frozen=True)
class Worst:
    """The row with the largest mean |d|: `value` in nats per token, over `tokens` tokens, of a
    completion of the problem `uid`."""

    uid: str
    value: float
    tokens: int


@dataclass(frozen=True, eq=False)
class Drift:
    """The drift of one batch, on the CPU.

    `sums` add over batches; `measures` reads their means. `maxima` are combined by max. Both have
    the same names for every batch: a set without rows has counts of 0 and a maximum of -inf.
    `worst` is None if no token is trained.
    """

    sums: Statistics
    maxima: dict[str, Tensor]
    worst: Worst | None


class _Table(NamedTuple):
    """For each row [B]: the place of its prompt in the step, its tokens, whether the prompt has
    images, the largest |d|, the sums and counts of what is averaged, and the problem's uid."""

    place: Tensor
    tokens: Tensor
    has_images: Tensor
    largest: Tensor
    columns: dict[str, tuple[Tensor, Tensor]]
    uids: list[str]


def measure(batch: Batch, places: Tensor) -> Drift:
    """Return the drift of the rows of `batch` on all ranks, the same on each rank.

    `places` [P] int64 are the places of its prompts in the step.
    """
    table = _joined(ranks.gather(_table(batch, places)))
    sums: Statistics = {}
    maxima: dict[str, Tensor] = {}
    for prefix, rows in _rows_by_set(table).items():
        for name, (values, counts) in table.columns.items():
            sums[prefix + name] = Statistic(values[rows].sum(), counts[rows].sum())
        maximum = max(table.largest[rows].tolist(), default=-math.inf)
        maxima[f"{prefix}abs_max"] = torch.tensor(maximum, dtype=torch.float64)
    return Drift(sums, maxima, _worst(table))


def _table(batch: Batch, places: Tensor) -> _Table:
    tokens = batch.lengths.cpu()
    difference = batch.old_logprobs.double() - batch.sampling_logprobs.double()
    difference = difference[batch.completion_mask].cpu()
    difference = torch.where(difference.isfinite(), difference, -math.inf)
    owner = torch.arange(len(batch)).repeat_interleave(tokens)
    largest = torch.full((len(batch),), -math.inf, dtype=torch.float64)
    largest = largest.scatter_reduce(0, owner, difference.abs(), "amax")
    of_prompt = torch.tensor([bool(prompt.images) for prompt in batch.prompts], dtype=torch.bool)
    owners = batch.row_prompt.tolist()
    return _Table(
        places[batch.row_prompt],
        tokens,
        of_prompt[batch.row_prompt],
        largest,
        _columns(difference, owner, tokens),
        [batch.prompts[owner].uid for owner in owners],
    )


def _joined(parts: Sequence[_Table]) -> _Table:
    """Concatenate in the order of the step's prompts: it decides ties of length in the deciles."""
    order = torch.cat([part.place for part in parts]).argsort(stable=True)
    columns = {
        name: (
            torch.cat([part.columns[name][0] for part in parts])[order],
            torch.cat([part.columns[name][1] for part in parts])[order],
        )
        for name in parts[0].columns
    }
    place, tokens, has_images, largest = (
        torch.cat(column)[order] for column in zip(*(part[:4] for part in parts), strict=True)
    )
    uids = [uid for part in parts for uid in part.uids]
    return _Table(
        place, tokens, has_images, largest, columns, [uids[row] for row in order.tolist()]
    )


def measures(reduced: Mapping[str, float]) -> dict[str, float]:
    """Return the named measures.

    `reduced` has the mean (sum over count) of each of `sums` with a count above 0. It may also have
    the maxima, and other metrics, which stay as they are. A set without rows gets no measure and no
    maximum.
    """
    final = dict(reduced)
    for prefix in SETS:
        if f"{prefix}abs_mean" not in final:
            final.pop(f"{prefix}abs_max", None)
            continue
        log_ratio, *moments = (final.pop(prefix + name) for name in MOMENTS)
        weight, weight_squared, token_weight, token_weight_squared = moments
        # not math.exp, which raises where the result is inf
        ratio = torch.tensor(log_ratio, dtype=torch.float64).exp()
        final[f"{prefix}perplexity_ratio"] = float(ratio)
        final[f"{prefix}ess"] = weight**2 / weight_squared
        final[f"{prefix}token_ess"] = token_weight**2 / token_weight_squared
    return final


def metrics(drift: Drift) -> dict[str, float]:
    """Return the measures of one step's drift; none if the step trains no token."""
    means = {name: float(s.sum / s.count) for name, s in drift.sums.items() if s.count > 0}
    return measures(means | {name: float(largest) for name, largest in drift.maxima.items()})


def alarm(worst: Worst | None, limit: float) -> str | None:
    """Return a warning if the worst row is more than `limit` nats per token off."""
    if worst is None or worst.value <= limit:
        return None
    return (
        f"the engine's log-probabilities of a completion of problem {worst.uid!r} are "
        f"{worst.value:.3g} nats per token from the policy's, over {worst.tokens} tokens; the "
        f"limit is {limit:g}. Look at the engine's image handling, weights and sampler; "
        "drift_alarm raises the limit"
    )


def _columns(difference: Tensor, owner: Tensor, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the sums and counts [B] of what is averaged, by row.

    `difference` [N] is d of all trained tokens, `owner` [N] the row of each.
    """

    def by_row(values: Tensor) -> Tensor:
        return torch.zeros(len(tokens), dtype=torch.float64).index_add(0, owner, values)

    one = torch.ones_like(tokens)
    total = by_row(difference)
    weight = _weight(total)
    token_weight = _weight(difference)
    return {
        "abs_mean": (by_row(difference.abs()), tokens),
        "k3": (by_row(torch.expm1(difference) - difference), tokens),
        "log_perplexity_ratio": (-total / tokens, one),
        "weight": (weight, one),
        "weight_squared": (weight.square(), one),
        "token_weight": (by_row(token_weight), tokens),
        "token_weight_squared": (by_row(token_weight.square()), tokens),
    }


def _weight(log_weight: Tensor) -> Tensor:
    return log_weight.clamp(-WEIGHT_CAP_LOG, WEIGHT_CAP_LOG).exp()


def _rows_by_set(table: _Table) -> dict[str, Tensor]:
    """Return the rows of each set, ascending; only rows with trained tokens."""
    tokens = table.tokens
    trained = tokens.nonzero()[:, 0]
    has_images = table.has_images[trained]
    ranked = trained[tokens[trained].argsort(stable=True)]
    # by quantile, so that few rows spread over all deciles
    decile = torch.arange(len(ranked)) * NUM_DECILES // max(len(ranked), 1)
    by_length = [ranked[decile == index] for index in range(NUM_DECILES)]
    parts = [trained, trained[has_images], trained[~has_images], *by_length]
    return dict(zip(SETS, parts, strict=True))


def _worst(table: _Table) -> Worst | None:
    """Return the worst row, the first of equals."""
    trained = table.tokens.nonzero()[:, 0].tolist()
    if not trained:
        return None
    means = (table.columns["abs_mean"][0] / table.tokens).tolist()
    row = max(trained, key=means.__getitem__)
    return Worst(table.uids[row], means[row], int(table.tokens[row]))
