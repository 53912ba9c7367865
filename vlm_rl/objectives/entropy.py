"""Entropy as a regularizer: a bonus for more entropy, and a band to keep it in."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives.aggregations import Aggregation, TokenMean, masked_sum
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.token_weights import AllSum, Scalars
from vlm_rl.records import Batch


class EntropyBonus(Regularizer):
    """-entropy_coef H_t, H the entropy over the whole vocabulary, in nats."""

    name = "entropy_bonus"
    needs_reference = False

    def __init__(self, entropy_coef: float, aggregation: Aggregation | None = None) -> None:
        if not entropy_coef > 0:
            raise ValueError(
                f"entropy_coef must be > 0, got {entropy_coef}; leave the term out to train without"
            )
        self.coef = entropy_coef
        self.aggregation = aggregation

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        assert stats.entropy is not None
        return -stats.entropy


class EntropyBand(Regularizer):
    """sum over tasks of max(0, H_task - max) + max(0, min - H_task), H_task the mean over the
    task's tokens in the minibatch (G2RPO, arXiv:2604.08539).

    `entropy` "sampled" is the paper's: the mean of -log pi of the sampled tokens, whose gradient
    has mean zero on-policy. "full", the default, is the entropy over the vocabulary. In both, the
    side of the band that a task is on is read from -log pi_old, because it must be known for the
    whole minibatch before its first forward. `tasks` gives the problems of a `task` a band of their
    own; all others are one task with `min_entropy` and `max_entropy`. Published: 0.2 and 0.6; the
    coefficient is not.
    """

    name = "entropy_band"
    needs_reference = False

    def __init__(
        self,
        coef: float,
        min_entropy: float = 0.2,
        max_entropy: float = 0.6,
        tasks: Mapping[str, Sequence[float]] | None = None,
        entropy: Literal["full", "sampled"] = "full",
    ) -> None:
        if not coef > 0:
            raise ValueError(
                f"EntropyBand.coef must be > 0, got {coef}; leave the term out to train without"
            )
        bands = [(min_entropy, max_entropy), *(tuple(band) for band in (tasks or {}).values())]
        for band in bands:
            if len(band) != 2 or not 0 <= band[0] < band[1]:
                raise ValueError(
                    f"EntropyBand needs 0 <= min < max in nats, got {list(band)}; usual is 0.2, 0.6"
                )
        self.coef = coef
        self.entropy = entropy
        self.tasks = [None, *(tasks or {})]
        self.bands = torch.tensor(bands, dtype=torch.float64)
        self.aggregation = TokenMean()

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        """Return for each task the side of the band, the bound there, and a token's weight.

        The weight is N / N_task, so that the mean over all N tokens is the sum of the tasks' means.
        """
        mask, rows = batch.completion_mask, self._rows(batch)
        sums = masked_sum(-batch.old_logprobs.double(), mask)
        zeros = sums.new_zeros(len(self.tasks))
        totals = all_sum(zeros.index_add(0, rows, sums))
        counts = all_sum(zeros.index_add(0, rows, mask.sum(-1).double()))
        mean = totals / counts.clamp(min=1)
        low, high = self.bands.to(mean.device).unbind(1)
        side = (mean > high).double() - (mean < low).double()
        return {
            "side": torch.where(counts > 0, side, 0.0),
            "bound": torch.where(side > 0, high, low),
            "weight": counts.sum() / counts.clamp(min=1),
        }

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        values = -stats.logprobs if self.entropy == "sampled" else stats.entropy
        assert values is not None
        rows = self._rows(batch)
        side, bound, weight = (
            scalars[name].to(values.dtype)[rows][:, None] for name in ("side", "bound", "weight")
        )
        return side * (values - bound) * weight

    def _rows(self, batch: Batch) -> Tensor:
        """Return each row's index in `tasks`, [B]."""
        of_prompt = [
            self.tasks.index(prompt.problem.task) if prompt.problem.task in self.tasks else 0
            for prompt in batch.prompts
        ]
        index = torch.tensor(of_prompt, dtype=torch.int64)[batch.row_prompt.cpu()]
        return index.to(batch.completion_mask.device)
