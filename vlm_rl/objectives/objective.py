"""An objective: ratio o surrogate o token weights o aggregation, plus regularizers.

The trainer never learns which objective it runs. A method of the literature is a `Preset`: it
fixes the composition and states its source and published defaults.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives.aggregations import Aggregation, masked_sum
from vlm_rl.objectives.group_losses import GroupLoss, group_terms
from vlm_rl.objectives.ratios import Ratio
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.soundness import refuse_several_group_losses, refuse_unsound
from vlm_rl.objectives.state import Stateful
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO, Surrogate, SurrogateLoss
from vlm_rl.objectives.token_weights import AllSum, Scalars, TokenWeight
from vlm_rl.objectives.tokens import Tokens
from vlm_rl.records import Batch, Statistic

POLICY_TERM = "policy"

Plan = Mapping[str, Scalars]
"""What each part of an objective knows of a whole minibatch, by the part's name."""


class Sequences(NamedTuple):
    """What the objective did to each row, [B] and detached: means over the row's tokens.

    `length` is in tokens. `inside`: within the band, whatever the sign of the advantage.
    `accepted`: not cut off. `clipped_*`: as in `SurrogateLoss`. `weight`: |d (policy term) /
    d logprob| / |A|, the factor of A grad log pi, before the division by the normalizer; NaN if the
    advantage is 0. `push`: -d (policy term) / d logprob, the factor of grad log pi, with its sign.
    """

    length: Tensor
    inside: Tensor
    accepted: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    clipped_dual: Tensor
    weight: Tensor
    push: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Sequences"]) -> "Sequences":
        """Concatenate the rows of all parts; no parts give no rows."""
        if not parts:
            return cls(*(torch.zeros(0) for _ in cls._fields))
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def weighted(self, factor: Tensor) -> "Sequences":
        """Scale `weight` and `push`, for instance by 1 over the policy term's normalizer."""
        factor = factor.to(self.weight.device)
        return self._replace(weight=self.weight * factor, push=self.push * factor)


class TokenEffects(NamedTuple):
    """What the objective saw and did at each token, float [B, T], detached; padding is arbitrary.

    `entropy` is in nats, NaN if the policy did not say. `ratio` is the importance ratio that the
    surrogate got. `clipped` is 0 where the token kept its gradient, else 1 (lower end), 2 (upper
    end) or 3 (dual clip).
    """

    entropy: Tensor
    ratio: Tensor
    clipped: Tensor


class Loss(NamedTuple):
    """`terms` are sums per row [B], with coefficients, still to be divided by their normalizers.
    All else is detached."""

    terms: dict[str, Tensor]
    statistics: dict[str, Statistic]
    sequences: Sequences
    tokens: TokenEffects


class Objective:
    """J = sum over terms of (sum of its rows) / (its normalizer over the whole update).

    Raises ValueError for parts that do not go together (`soundness`).
    """

    def __init__(
        self,
        ratio: Ratio,
        surrogate: Surrogate,
        aggregation: Aggregation,
        regularizers: Sequence[Regularizer] = (),
        token_weights: Sequence[TokenWeight] = (),
    ) -> None:
        names = [part.name for part in regularizers] + [part.name for part in token_weights]
        if len(set(names)) < len(names):
            raise ValueError(
                f"regularizers and token_weights must differ, got {names}; keep one of each"
            )
        refuse_unsound(ratio, surrogate, aggregation, token_weights)
        refuse_several_group_losses(surrogate, regularizers)
        self.ratio = ratio
        self.surrogate = surrogate
        self.aggregation = aggregation
        self.regularizers: Sequence[Regularizer] = tuple(regularizers)
        self.token_weights: Sequence[TokenWeight] = tuple(token_weights)

    @property
    def needs_reference(self) -> bool:
        """Whether some term reads `Batch.ref_logprobs`."""
        return any(regularizer.needs_reference for regularizer in self.regularizers)

    @property
    def needs_routing(self) -> bool:
        """Whether some term reads what the routers of a mixture of experts did."""
        return any(regularizer.needs_routing for regularizer in self.regularizers)

    @property
    def corrects(self) -> bool:
        """Whether it allows for completions that were sampled with other weights than the policy's:
        by a token weight, or by a ratio against the probabilities that sampled."""
        return self.ratio.corrects or any(weight.corrects for weight in self.token_weights)

    @property
    def group_loss(self) -> GroupLoss | None:
        """The loss of whole groups among its terms, if there is one."""
        parts: Sequence[Surrogate | Regularizer] = (self.surrogate, *self.regularizers)
        return next((part.group_loss for part in parts if part.group_loss is not None), None)

    def group_terms(self, minibatch: Batch, logprobs: Tensor, all_sum: AllSum) -> Tensor:
        """Return `Batch.group_terms` [B, 2] of a minibatch, from the policy's `logprobs` [B, T] as
        it is before the update. Only an objective with a `group_loss` is asked."""
        assert self.group_loss is not None
        return group_terms(self.group_loss, minibatch, logprobs, all_sum)

    @property
    def looks_ahead(self) -> bool:
        """Whether log-probabilities of a minibatch are read before its first forward.

        Every part with a `prepare` of its own counts, an objective with one, and a loss of groups.
        """
        parts: Sequence[Regularizer | TokenWeight] = (*self.regularizers, *self.token_weights)
        plain = {Regularizer.prepare, TokenWeight.prepare, Objective.prepare}
        plans = any(type(part).prepare not in plain for part in (self, *parts))
        return plans or self.group_loss is not None

    @property
    def needs_all_rows(self) -> bool:
        """Whether a row whose advantages are 0 counts anywhere but in the normalizers.

        Its policy term is 0, with its gradient, if the surrogate says so. Then it counts only in
        regularizers, in what a part finds out about the minibatch, or learns from its metrics, and
        in averages over a forward. A `__call__` of its own may do anything.
        """
        return (
            type(self).__call__ is not Objective.__call__
            or not self.surrogate.scales_with_advantage
            or not self.aggregation.is_by_row
            or bool(self.regularizers)
            or self.looks_ahead
            or self.observes
        )

    def prepare(self, minibatch: Batch, all_sum: AllSum) -> Plan:
        """Return what the parts need to know of the whole minibatch; call it once per update."""
        plan = {part.name: part.prepare(minibatch, all_sum) for part in self.regularizers}
        return plan | {part.name: part.prepare(minibatch, all_sum) for part in self.token_weights}

    def normalizers(self, micro: Batch) -> dict[str, Tensor]:
        """Return these rows' share of each term's denominator.

        They are scalar counts, to be added over micro-batches and ranks before the first backward.
        """
        counts = {POLICY_TERM: self.aggregation.count(micro.completion_mask)}
        for regularizer in self.regularizers:
            aggregation = regularizer.aggregation or self.aggregation
            counts[regularizer.name] = aggregation.count(micro.completion_mask)
        return counts

    def __call__(self, stats: TokenStats, batch: Batch, plan: Plan) -> Loss:
        """Sum each term over the rows of `batch`; `stats` are the current policy's, [B, T]."""
        mask = batch.completion_mask
        tokens = Tokens.of(stats.logprobs, batch)
        log_ratio = self.ratio(tokens)
        surrogate = self.surrogate(log_ratio, tokens)
        policy = self._weighted(surrogate.loss, tokens, batch, plan)
        terms = {POLICY_TERM: self.aggregation.sums(policy, mask)}
        per_token = {
            "policy/ratio": torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO)),
            "policy/clip_frac_low": surrogate.clipped_low,
            "policy/clip_frac_high": surrogate.clipped_high,
            "policy/clip_frac_dual": surrogate.clipped_dual,
            "policy/old_kl": -tokens.log_ratio,
        }
        entropy = stats.entropy
        if entropy is not None:
            entropy = torch.where(mask, entropy, 0.0)
            per_token["policy/entropy"] = entropy
        for regularizer in self.regularizers:
            own = TokenStats(tokens.logprobs, entropy, stats.routing)
            values = regularizer(own, batch, plan[regularizer.name])
            aggregation = regularizer.aggregation or self.aggregation
            terms[regularizer.name] = regularizer.coef * aggregation.sums(values, mask)
            per_token[f"policy/{regularizer.name}"] = values
        return Loss(
            terms,
            {name: _token_mean(v, mask) for name, v in per_token.items()},
            _sequences(surrogate, tokens, terms[POLICY_TERM]),
            _effects(surrogate, entropy, per_token["policy/ratio"]),
        )

    def _weighted(self, loss: Tensor, tokens: Tokens, batch: Batch, plan: Plan) -> Tensor:
        for weight in self.token_weights:
            loss = loss * weight(tokens, batch, plan[weight.name]).detach()
        return loss

    @property
    def observes(self) -> bool:
        """Whether some part learns from updates, so that `observe` must be called after each."""
        return any(part.observes for _, part in self._stateful_parts())

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Tell the parts the metrics of an update: means over all ranks."""
        for _, part in self._stateful_parts():
            part.observe(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part that has one, by name."""
        return {name: part.state_dict() for name, part in self._stateful_parts()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._stateful_parts():
            part.load_state_dict(state[name])

    def _stateful_parts(self) -> Iterator[tuple[str, Stateful]]:
        named = {"surrogate": self.surrogate, **{r.name: r for r in self.regularizers}}
        for name, part in named.items():
            if isinstance(part, Stateful):
                yield name, part


def _token_mean(values: Tensor, mask: Tensor) -> Statistic:
    return Statistic(masked_sum(values.detach(), mask).sum().double(), mask.sum())


def _sequences(surrogate: SurrogateLoss, tokens: Tokens, policy: Tensor) -> Sequences:
    """Measure what was done to each row; `policy` [B] are row sums, still with their graph."""
    cut = surrogate.clipped_low | surrogate.clipped_high | surrogate.clipped_dual
    gradient = _gradient(tokens, policy)
    return Sequences(
        length=tokens.mask.sum(-1),
        inside=_row_mean(surrogate.inside, tokens),
        accepted=_row_mean(~cut, tokens),
        clipped_low=_row_mean(surrogate.clipped_low, tokens),
        clipped_high=_row_mean(surrogate.clipped_high, tokens),
        clipped_dual=_row_mean(surrogate.clipped_dual, tokens),
        weight=_row_mean((gradient / tokens.advantages).abs(), tokens),
        push=-_row_mean(gradient, tokens),
    )


def _effects(surrogate: SurrogateLoss, entropy: Tensor | None, ratio: Tensor) -> TokenEffects:
    ends = (surrogate.clipped_low, surrogate.clipped_high, surrogate.clipped_dual)
    clipped = torch.zeros_like(ratio)
    for code, end in enumerate(ends, 1):
        clipped = torch.where(end, float(code), clipped)
    nothing = torch.full_like(ratio, torch.nan)
    entropy = nothing if entropy is None else entropy
    return TokenEffects(entropy.detach(), ratio.detach(), clipped.detach())


def _gradient(tokens: Tokens, policy: Tensor) -> Tensor:
    """Measure d policy / d logprobs of each token, [B, T]: true of any objective."""
    if not policy.requires_grad:
        return torch.full_like(tokens.logprobs, torch.nan)
    (gradient,) = torch.autograd.grad(policy.sum(), tokens.logprobs, retain_graph=True)
    return gradient


def _row_mean(values: Tensor, tokens: Tokens) -> Tensor:
    return masked_sum(values.detach().double(), tokens.mask) / tokens.lengths[:, 0]
