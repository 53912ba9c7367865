"""DPPO (arXiv:2602.04879): a trust region in probabilities, not in ratios."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import SequenceMeanOfScaledSums
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO, Surrogate, SurrogateLoss
from vlm_rl.objectives.tokens import Tokens


class DivergenceBand(Surrogate):
    """-sg[min(r, max_ratio)] A log pi for the tokens that are kept, 0 for the others.

    A token is dropped when its probability has already moved too far in the direction of its
    advantage: up with A > 0, or down with A < 0. So the ratio of a rare token may change freely,
    that of a likely one hardly.
    """

    only_ratios = (TokenRatio,)
    through_ratio = False
    scales_with_advantage = True

    def __init__(self, max_ratio: float) -> None:
        if not max_ratio > 1:
            raise ValueError(
                f"max_ratio must be > 1, got {max_ratio}; it caps the weight of a token, 20 is "
                "published"
            )
        self.max_ratio = max_ratio

    @abstractmethod
    def too_far(self, now: Tensor, old: Tensor) -> Tensor:
        """Return [B, T] bool: whether the log-probabilities `now` are too far from `old`."""

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        cap = min(math.log(self.max_ratio), MAX_LOG_RATIO)
        weight = log_ratio.detach().clamp(max=cap).exp()
        now, old = tokens.logprobs.detach(), tokens.old_logprobs
        far = self.too_far(now, old)
        low, high = far & (now < old), far & (now > old)
        clipped_low, clipped_high = low & (tokens.advantages < 0), high & (tokens.advantages > 0)
        loss = -weight * tokens.advantages * tokens.logprobs
        return SurrogateLoss(
            torch.where(clipped_low | clipped_high, 0.0, loss),
            inside=~low & ~high,
            clipped_low=clipped_low,
            clipped_high=clipped_high,
            clipped_dual=torch.zeros_like(low),
        )


class ProbabilityBand(DivergenceBand):
    """Too far is |pi - pi_old| > max_shift, the total variation of taking the token or not."""

    def __init__(self, max_shift: float, max_ratio: float) -> None:
        super().__init__(max_ratio)
        if not 0 < max_shift < 1:
            raise ValueError(
                f"max_shift must be in (0, 1), got {max_shift}; it is a difference of a token's "
                "probabilities, 0.15 is published"
            )
        self.max_shift = max_shift

    def too_far(self, now: Tensor, old: Tensor) -> Tensor:
        return (now.exp() - old.exp()).abs() > self.max_shift


class BinaryKLBand(DivergenceBand):
    """Too far is p log(p / q) + (1 - p) log((1 - p) / (1 - q)) > max_kl, p = pi_old, q = pi: the
    divergence of taking the token or not."""

    def __init__(self, max_kl: float, max_ratio: float) -> None:
        super().__init__(max_ratio)
        if not max_kl > 0:
            raise ValueError(f"max_kl must be > 0, got {max_kl}; 0.05 nats is published")
        self.max_kl = max_kl

    def too_far(self, now: Tensor, old: Tensor) -> Tensor:
        p = old.double().exp()
        taken = p * (old.double() - now.double())
        # a token that is as good as certain before has nothing left for the others: 0 log 0 is 0
        other = (1 - p) * (_log_of_others(old) - _log_of_others(now))
        return taken + torch.where(p < 1, other, 0.0) > self.max_kl


def _log_of_others(logprobs: Tensor) -> Tensor:
    """Return log(1 - exp(l)) in float64, finite also where l is rounded to 0."""
    return (-torch.expm1(logprobs.double())).clamp(min=_LEAST).log()


_LEAST = torch.finfo(torch.float32).tiny


@dataclass(eq=False)
class DPPO(Preset):
    """(1/N) sum_i (1/C) sum_t -keep_it sg[min(r_it, max_ratio)] A_i log pi_it (`ProbabilityBand`).

    Published, in the authors' scripts: max_shift 0.15, max_ratio 20, token sums over a constant C,
    the response limit, with the centred advantage (`Centered`). C has no default.
    """

    constant_tokens: int
    max_shift: float = 0.15
    max_ratio: float = 20.0

    def parts(self) -> Parts:
        band = ProbabilityBand(self.max_shift, self.max_ratio)
        return TokenRatio(), band, SequenceMeanOfScaledSums(self.constant_tokens)


@dataclass(eq=False)
class DPPOKL(Preset):
    """`DPPO` with the binary KL in place of the total variation (`BinaryKLBand`).

    Published: max_kl 0.05, all else as in `DPPO`.
    """

    constant_tokens: int
    max_kl: float = 0.05
    max_ratio: float = 20.0

    def parts(self) -> Parts:
        band = BinaryKLBand(self.max_kl, self.max_ratio)
        return TokenRatio(), band, SequenceMeanOfScaledSums(self.constant_tokens)
