"""Attention by segments in two parts, merged by their log-sum-exp.

Of a completion token, with keys of its prompt (part 1) and of itself (part 2):

    out_i = softmax over the keys of part i of (q . k * scale), times v;   lse_i likewise
    lse = log(exp(lse_1) + exp(lse_2));   out = sum_i exp(lse_i - lse) * out_i

So no key of a prompt is copied for its completions, and nothing of size S x S is made. The gradient
of flash attention needs of the forward only `out` and `lse` of the *whole* softmax: with p_j =
exp(q . k_j * scale - lse), d_j = p_j * (grad . v_j - grad . out). So each part computes its share
with the merged two, and the shares add up (Ring Attention, arXiv:2310.01889, does the same over
devices).
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vlm_rl.model.attention.segments import Segments


class Attended(NamedTuple):
    """`out` [H, T, D], and `lse` [H, T], float32 or float64."""

    out: Tensor
    lse: Tensor


class Saved(NamedTuple):
    """What a backward reads; `query`, `out`, `grad_out` [H, T, D], `key`, `value` [K, T', D]."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    lse: Tensor
    grad_out: Tensor


Gradients = tuple[Tensor, Tensor, Tensor]
"""Of query, key and value."""


class Kernel(Protocol):
    """Flash attention between pieces; H query heads share K key heads."""

    def to_itself(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> Attended:
        """Let every piece attend to itself, causally."""
        ...

    def to_itself_backward(self, saved: Saved, segments: Segments, scale: float) -> Gradients: ...

    def to_prompt(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> Attended:
        """Let completion tokens [C] attend to all tokens of their prompt [P]."""
        ...

    def to_prompt_backward(self, saved: Saved, segments: Segments, scale: float) -> Gradients: ...


def merged_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, kernel: Kernel
) -> Tensor:
    """Return the attention of a packed row, [H, S, D]; `query` [H, S, D], the others [K, S, D]."""
    out: Tensor = _Merged.apply(query, key, value, segments, scale, kernel)
    return out


class _Merged(Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Segments,
        scale: float,
        kernel: Kernel,
    ) -> Tensor:
        out, lse = kernel.to_itself(query, key, value, segments, scale)
        if segments.answers:
            asked, prompts = segments.completion_places, segments.prompt_places
            far = kernel.to_prompt(
                asked.of(query), prompts.of(key), prompts.of(value), segments, scale
            )
            both = _merge(Attended(asked.of(out), asked.of(lse)), far)
            asked.put(out, both.out)
            asked.put(lse, both.lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.segments, ctx.scale, ctx.kernel = segments, scale, kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        segments: Segments = ctx.segments
        saved = Saved(query, key, value, out, lse, grad_out)
        of_query, of_key, of_value = ctx.kernel.to_itself_backward(saved, segments, ctx.scale)
        if segments.answers:
            asked, prompts = segments.completion_places, segments.prompt_places
            part = Saved(
                asked.of(query),
                prompts.of(key),
                prompts.of(value),
                asked.of(out),
                asked.of(lse),
                asked.of(grad_out),
            )
            shares = ctx.kernel.to_prompt_backward(part, segments, ctx.scale)
            asked.add(of_query, shares[0])
            prompts.add(of_key, shares[1])
            prompts.add(of_value, shares[2])
        return of_query, of_key, of_value, None, None, None


def _merge(first: Attended, second: Attended) -> Attended:
    lse = torch.logaddexp(first.lse, second.lse)
    out = sum(part.out * (part.lse - lse).exp()[..., None] for part in (first, second))
    assert isinstance(out, Tensor)
    return Attended(out.to(first.out.dtype), lse)
