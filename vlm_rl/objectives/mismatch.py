"""Token weights against a rollout engine whose probabilities are not the trainer's.

rho_t = pi_old(y_t) / pi_engine(y_t) turns an expectation over the engine's distribution into one
over the trainer's. Truncation (TIS) bounds the variance. Masking (MIS) drops what cannot be
corrected. Rejection drops whole sequences. With an exact engine all weights are 1.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import masked_sum
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO
from vlm_rl.objectives.token_weights import Scalars, TokenWeight
from vlm_rl.objectives.tokens import Tokens
from vlm_rl.records import Batch


def _mismatch(tokens: Tokens) -> Tensor:
    """Return log rho [B, T], 0 in the padding."""
    return tokens.old_logprobs - tokens.sampling_logprobs


def _of_sequence(tokens: Tokens) -> Tensor:
    """Return sum_t log rho_t of each row, [B, T]: the sum, not the mean."""
    total = masked_sum(_mismatch(tokens), tokens.mask)[:, None]
    return total.expand(tokens.mask.shape)


class _Mismatch(TokenWeight):
    """A function of log rho alone, an importance weight."""

    corrects = True

    def __call__(self, tokens: Tokens, batch: Batch, scalars: Scalars) -> Tensor:
        return self.of_log_ratio(_of_sequence(tokens) if self.per_sequence else _mismatch(tokens))

    @abstractmethod
    def of_log_ratio(self, log_ratio: Tensor) -> Tensor:
        """Map log rho [B, T], of tokens or of sequences, to the weight [B, T]."""


class TokenTIS(_Mismatch):
    """min(rho_t, max_weight): truncated importance sampling, token by token.

    2 is the value of the note that proposed it; 1.5 to 5 are in use.
    """

    name = "token_tis"

    def __init__(self, max_weight: float = 2.0) -> None:
        _refuse_below_one("TokenTIS.max_weight", max_weight)
        self.max_weight = max_weight

    def of_log_ratio(self, log_ratio: Tensor) -> Tensor:
        return _exp(log_ratio).clamp(max=self.max_weight)


class SequenceTIS(_Mismatch):
    """min(prod_t rho_t, max_weight), the same for all tokens of a row.

    2 to 10 are in use; CTPO (arXiv:2605.07331) has 5.
    """

    name = "sequence_tis"
    per_sequence = True

    def __init__(self, max_weight: float) -> None:
        _refuse_below_one("SequenceTIS.max_weight", max_weight)
        self.max_weight = max_weight

    def of_log_ratio(self, log_ratio: Tensor) -> Tensor:
        return _exp(log_ratio).clamp(max=self.max_weight)


class TokenMIS(_Mismatch):
    """rho_t where min_weight <= rho_t <= max_weight, else 0: masked importance sampling, IcePop
    (arXiv:2510.18855).

    The defaults are 0.5 and 2; IcePop's upper end is 5.
    """

    name = "token_mis"

    def __init__(self, min_weight: float = 0.5, max_weight: float = 2.0) -> None:
        _refuse_empty_band("TokenMIS", min_weight, max_weight)
        self.min_weight, self.max_weight = min_weight, max_weight

    def of_log_ratio(self, log_ratio: Tensor) -> Tensor:
        return _masked(_exp(log_ratio), self.min_weight, self.max_weight)


class SequenceMIS(_Mismatch):
    """prod_t rho_t if it is in [min_weight, max_weight], else 0 for the row.

    3 without a lower end is the default of TRL.
    """

    name = "sequence_mis"
    per_sequence = True

    def __init__(self, max_weight: float = 3.0, min_weight: float = 0.0) -> None:
        _refuse_empty_band("SequenceMIS", min_weight, max_weight)
        self.min_weight, self.max_weight = min_weight, max_weight

    def of_log_ratio(self, log_ratio: Tensor) -> Tensor:
        return _masked(_exp(log_ratio), self.min_weight, self.max_weight)


class GeometricRejection(TokenWeight):
    """1 if min_ratio <= exp(mean_t log rho_t) <= max_ratio, else 0 for the row.

    verl recommends 0.999 to 1.001. Kept sequences are not reweighted.
    """

    name = "geometric_rejection"
    per_sequence = True

    def __init__(self, min_ratio: float = 0.999, max_ratio: float = 1.001) -> None:
        _refuse_empty_band("GeometricRejection", min_ratio, max_ratio)
        self.min_ratio, self.max_ratio = min_ratio, max_ratio

    def __call__(self, tokens: Tokens, batch: Batch, scalars: Scalars) -> Tensor:
        ratio = _exp(_of_sequence(tokens) / tokens.lengths)
        return ((ratio >= self.min_ratio) & (ratio <= self.max_ratio)).to(ratio.dtype)


class K3Rejection(TokenWeight):
    """1 if mean_t (rho_t - 1 - log rho_t) <= max_kl, else 0 for the row.

    The mean estimates KL(engine || policy) by terms that are never negative; 1e-3 to 1e-2 are in
    use.
    """

    name = "k3_rejection"
    per_sequence = True

    def __init__(self, max_kl: float) -> None:
        if not max_kl > 0:
            raise ValueError(f"K3Rejection.max_kl must be > 0, got {max_kl}; 1e-3 to 1e-2 are used")
        self.max_kl = max_kl

    def __call__(self, tokens: Tokens, batch: Batch, scalars: Scalars) -> Tensor:
        # bounded here, not only inside exp: else log rho = inf gives k3 = -inf, and keeps the row
        log_ratio = _mismatch(tokens).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        k3 = masked_sum(_exp(log_ratio) - 1 - log_ratio, tokens.mask)[:, None] / tokens.lengths
        return (k3 <= self.max_kl).to(log_ratio.dtype).expand(tokens.mask.shape)


class OffPolicyMask(TokenWeight):
    """0 for a row with A < 0 and mean_t (log pi_old - log pi) > max_shift, else 1 (DeepSeek-V3.2,
    arXiv:2512.02556). It does not push further what the policy has already moved away from.

    The bound is not published; TRL's documentation starts from 0.5. It reads the current
    log-probabilities, so it changes from update to update. `behaviour` "engine" takes what the
    engine sampled with in place of pi_old, as TRL does: its mismatch counts as a shift too.
    """

    name = "off_policy_mask"
    per_sequence = True

    def __init__(self, max_shift: float = 0.5, behaviour: Literal["old", "engine"] = "old") -> None:
        if not max_shift > 0:
            raise ValueError(f"OffPolicyMask.max_shift must be > 0, got {max_shift}; usual is 0.5")
        self.max_shift = max_shift
        self.behaviour = behaviour

    def __call__(self, tokens: Tokens, batch: Batch, scalars: Scalars) -> Tensor:
        moved = tokens.log_ratio.detach()
        if self.behaviour == "engine":
            moved = moved + _mismatch(tokens)
        shift = masked_sum(-moved, tokens.mask)[:, None] / tokens.lengths
        return 1 - ((tokens.advantages < 0) & (shift > self.max_shift)).to(shift.dtype)


def _exp(log_ratio: Tensor) -> Tensor:
    return torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def _masked(weight: Tensor, least: float, most: float) -> Tensor:
    return torch.where((weight >= least) & (weight <= most), weight, 0.0)


def _refuse_below_one(name: str, value: float) -> None:
    if not value >= 1:
        raise ValueError(f"{name} must be >= 1, got {value}; 1 is the weight with an exact engine")


def _refuse_empty_band(name: str, least: float, most: float) -> None:
    if not 0 <= least <= 1 <= most:
        raise ValueError(
            f"{name} must hold 1, the weight with an exact engine, got {least} to {most}; "
            "give a lower end in [0, 1] and an upper end of at least 1"
        )
