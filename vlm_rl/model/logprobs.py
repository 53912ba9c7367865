"""Log-probability and entropy of target tokens straight from hidden states.

The logits [N, V] of a vision-language model are its largest tensor by far (V is about 152,000).
They never exist whole here: rows are taken in chunks, and the backward pass computes each chunk a
second time instead of storing it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class TokenStats(NamedTuple):
    """Per token: `logprobs` and, if asked for, `entropy` in nats; float32 or float64."""

    logprobs: Tensor
    entropy: Tensor | None


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    banned_ids: Tensor | None = None,
    with_entropy: bool = False,
    chunk_rows: int = 256,
) -> TokenStats:
    """Return log softmax(hidden @ weight.T / temperature)[targets], banned ids at minus infinity.

    `hidden` [N, H], `weight` [V, H], `targets` [N] int64 (none of them banned), `banned_ids` [K].
    Results are [N], float32 (float64 for float64 input), whatever the precision of the product.
    The entropy is that of the same distribution and is differentiable too.
    """
    if banned_ids is None:
        banned_ids = targets.new_empty(0)
    # autocast does not reach the backward of a custom function: decide once, use in both
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        logprobs, entropy = _LinearLogprobs.apply(
            hidden, weight, targets, temperature, banned_ids, with_entropy, chunk_rows
        )
    return TokenStats(logprobs, entropy if with_entropy else None)


def _scaled_logits(hidden: Tensor, weight: Tensor, temperature: float, banned: Tensor) -> Tensor:
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.div_(temperature).index_fill_(1, banned, float("-inf"))


def _entropy(logits: Tensor, normalizer: Tensor, banned: Tensor) -> Tensor:
    """Return H = logZ - sum p * logit.

    Banned logits are set to 0 first, so that they add 0 and not 0 * inf.
    """
    probabilities = torch.exp(logits - normalizer[:, None])
    logits = logits.index_fill(1, banned, 0.0)
    return normalizer - (probabilities * logits).sum(-1)


class _LinearLogprobs(Function):
    """d logp_y / d logit_j = [j = y] - p_j;  d H / d logit_j = -p_j (log p_j + H)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        banned: Tensor,
        with_entropy: bool,
        chunk_rows: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs, normalizers, entropies = (
            torch.zeros(len(hidden), dtype=dtype, device=hidden.device) for _ in range(3)
        )
        for start in range(0, len(hidden), chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = _scaled_logits(hidden[rows], weight, temperature, banned)
            normalizers[rows] = torch.logsumexp(logits, -1)
            logprobs[rows] = logits.gather(1, targets[rows, None])[:, 0] - normalizers[rows]
            if with_entropy:
                entropies[rows] = _entropy(logits, normalizers[rows], banned)
        ctx.save_for_backward(hidden, weight, targets, banned, normalizers, entropies)
        ctx.temperature, ctx.chunk_rows, ctx.with_entropy = temperature, chunk_rows, with_entropy
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> tuple[Any, ...]:
        hidden, weight, targets, banned, normalizers, entropies = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # summed over chunks in full precision: in bf16 a thousand rows lose a percent
        grad_weight = (
            torch.zeros_like(weight, dtype=normalizers.dtype) if ctx.needs_input_grad[1] else None
        )
        for start in range(0, len(hidden), ctx.chunk_rows):
            rows = slice(start, start + ctx.chunk_rows)
            logits = _scaled_logits(hidden[rows], weight, ctx.temperature, banned)
            log_p = logits.sub_(normalizers[rows, None])
            p = log_p.exp()
            grad = p * -grad_logprobs[rows, None]
            grad.scatter_add_(1, targets[rows, None], grad_logprobs[rows, None])
            if ctx.with_entropy:
                log_p.index_fill_(1, banned, 0.0)
                grad -= p * (log_p + entropies[rows, None]) * grad_entropy[rows, None]
            grad = grad.div_(ctx.temperature).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[rows]
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None
