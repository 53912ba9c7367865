"""Clip-Cov and KL-Cov (arXiv:2505.22617): hold back the few tokens that make entropy collapse.

The covariance of a token is cov_t = (A_t - mean A) (log pi_t - mean log pi), with means over the
tokens of the minibatch. The official code takes the current log pi. Here it is log pi_old, which is
the same in the first update. It is known for the whole minibatch before its first forward, so no
cut of the minibatch can change which tokens are chosen.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives.aggregations import Aggregation, masked_sum
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.token_weights import AllSum, Scalars, TokenWeight
from vlm_rl.objectives.tokens import Tokens
from vlm_rl.records import Batch

_BISECTIONS = 60
_MULTIPLIERS = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""Odd 64-bit numbers, as in splitmix64 and murmur3, written as int64."""


class ClipCov(TokenWeight):
    """0 on a random share `frac` of the minibatch's tokens among those with low < cov_t < high.

    The choice is a hash of the step, the problem's uid and the completion's tokens up to this one,
    so it does not depend on the order or the cut of the minibatch. Each token in the range is
    chosen with the same probability; their number is not exact. Published: 2e-4, 1 and 5, beside a
    token mean with a clip of 1 and 1 and a dual clip of 10.
    """

    name = "clip_cov"

    def __init__(self, frac: float = 2e-4, low: float = 1.0, high: float = 5.0) -> None:
        _refuse_frac("ClipCov", frac)
        if not low < high:
            raise ValueError(f"ClipCov needs low < high, got {low} and {high}; usual are 1 and 5")
        self.frac, self.low, self.high = frac, low, high

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        means = _means(batch, all_sum)
        in_range = all_sum(self._in_range(_covariance(batch, means), batch).sum())
        share = self.frac * means["num_tokens"] / in_range.clamp(min=1)
        return {**means, "share": share.clamp(max=1)}

    def __call__(self, tokens: Tokens, batch: Batch, scalars: Scalars) -> Tensor:
        chosen = self._in_range(_covariance(batch, scalars), batch)
        chosen &= token_uniforms(batch) < scalars["share"]
        return 1 - chosen.to(tokens.logprobs.dtype)

    def _in_range(self, covariance: Tensor, batch: Batch) -> Tensor:
        return (covariance > self.low) & (covariance < self.high) & batch.completion_mask


class KLCov(Regularizer):
    """|log pi_t - log pi_old,t| on the share `frac` of the minibatch's tokens with the largest
    cov_t, 0 on the others. In the first update all of it is 0. The official loss beside it has no
    clip. Published: 2e-4 (DOT, arXiv:2601.03969: 2e-3), coefficient 1."""

    name = "kl_cov"
    needs_reference = False

    def __init__(
        self, coef: float = 1.0, frac: float = 2e-4, aggregation: Aggregation | None = None
    ) -> None:
        if not coef > 0:
            raise ValueError(
                f"KLCov.coef must be > 0, got {coef}; leave the term out to train without"
            )
        _refuse_frac("KLCov", frac)
        self.coef, self.frac, self.aggregation = coef, frac, aggregation

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        """Find the least covariance among the chosen tokens, by bisection on counts: no rank needs
        the tokens of another."""
        means = _means(batch, all_sum)
        covariance = _covariance(batch, means)[batch.completion_mask]
        bound = all_sum(covariance.abs().sum())  # no covariance is larger
        wanted = (self.frac * means["num_tokens"]).ceil()
        low, high = -bound - 1, bound + 1
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            enough = all_sum((covariance >= middle).sum()) >= wanted
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        return {**means, "threshold": low}

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        chosen = _covariance(batch, scalars) >= scalars["threshold"]
        moved = stats.logprobs - torch.where(batch.completion_mask, batch.old_logprobs, 0.0)
        return torch.where(chosen, moved.abs(), 0.0)


def token_uniforms(batch: Batch) -> Tensor:
    """Hash the step, the problem's uid and the tokens up to each position, to [B, T] float64 in
    [0, 1)."""
    ids = batch.completion_ids
    hashes = torch.tensor([_hash_text(f"{batch.step} {prompt.uid}") for prompt in batch.prompts])
    uids = hashes[batch.row_prompt.cpu()][:, None].to(ids.device)
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device) * _MULTIPLIERS[0]
    # a wrapping sum over the prefix; each token is mixed with its position, so that order counts
    prefix = _mix(ids ^ _mix(places ^ uids)).cumsum(1)
    return _shifted(_mix(prefix), 11).double() / (1 << 53)


def _hash_text(text: str) -> int:
    """Return the 64-bit FNV-1a hash as int64; Python's own hash differs between processes."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(value: Tensor) -> Tensor:
    """Mix bits: each bit of the result depends on each bit of `value`; int64 products wrap."""
    value = (value ^ _shifted(value, 30)) * _MULTIPLIERS[1]
    value = (value ^ _shifted(value, 27)) * _MULTIPLIERS[2]
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros, as if unsigned."""
    return value >> bits & (1 << 64 - bits) - 1


def _means(batch: Batch, all_sum: AllSum) -> dict[str, Tensor]:
    mask = batch.completion_mask
    count = all_sum(mask.sum())
    advantage = all_sum(masked_sum(batch.advantages.double(), mask).sum())
    logprob = all_sum(masked_sum(batch.old_logprobs.double(), mask).sum())
    least_one = count.clamp(min=1)
    return {
        "num_tokens": count.double(),
        "advantage": advantage / least_one,
        "logprob": logprob / least_one,
    }


def _covariance(batch: Batch, means: Mapping[str, Tensor]) -> Tensor:
    """Return cov_t, [B, T] float64; arbitrary in the padding, but a number."""
    mask = batch.completion_mask
    advantages = torch.where(mask, batch.advantages, 0.0).double() - means["advantage"]
    return advantages * (torch.where(mask, batch.old_logprobs, 0.0).double() - means["logprob"])


def _refuse_frac(name: str, frac: float) -> None:
    if not 0 < frac <= 1:
        raise ValueError(f"{name}.frac must be in (0, 1], got {frac}; published is 2e-4")
