"""Log-probability and entropy of target tokens straight from hidden states.

The logits [N, V] of a vision-language model are its largest tensor by far (V is about 152,000).
They never exist whole here: they come in tiles (`vlm_rl.model.tiles`), and the backward pass
computes each tile a second time instead of storing it. What remains are four matrix products:
logits, logits again, the gradient of `hidden` and that of `weight`. `measurements/head.py` says how
little is added to them.

Not used: `torch.nn.functional.linear_cross_entropy`, exact per token with hidden / temperature and
a bias for banned ids, has no entropy and is slower on a CPU. liger-kernel's fused one had wrong
gradients of the weight per token until July 2026, and has neither temperature nor banned ids.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from vlm_rl.model.routing import RouterStats
from vlm_rl.model.tiles import (
    NEVER,
    Buffer,
    Head,
    Tile,
    add_product,
    default_tile_ids,
    set_product,
)


class TokenStats(NamedTuple):
    """Per token: `logprobs` and, if asked for, `entropy` in nats; float32 or float64. `routing` is
    what the routers of a mixture did, None without experts."""

    logprobs: Tensor
    entropy: Tensor | None
    routing: RouterStats | None = None


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    banned_ids: Tensor | None = None,
    with_entropy: bool = False,
    tile_ids: int | None = None,
) -> TokenStats:
    """Return log softmax(hidden @ weight.T / temperature)[targets], banned ids at probability 0.

    `hidden` [N, H], `weight` [V, H], `targets` [N] int64 (none of them banned), `banned_ids` [K].
    Results are [N], float32 (float64 for float64 input), whatever the precision of the product, to
    which logits are rounded as an engine rounds its own. The entropy is that of the same
    distribution. It is differentiable too, at no cost if no loss depends on it. `tile_ids` bounds
    the ids of a tile; None takes `default_tile_ids`.
    """
    device = hidden.device.type
    if banned_ids is None:
        banned_ids = targets.new_empty(0)
    if tile_ids is None:
        tile_ids = default_tile_ids(len(hidden), device)
    # autocast does not reach the backward of a custom function: decide once, use in both
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    head = Head(hidden, weight, targets, banned_ids, temperature, min(tile_ids, len(weight)))
    with torch.autocast(device, enabled=False):
        logprobs, entropy = _LinearLogprobs.apply(*head, with_entropy, torch.is_grad_enabled())
    return TokenStats(logprobs, entropy)


class _LinearLogprobs(Function):
    """With x = logit - max, e = exp(x), s = sum e and m = sum e x / s:

    log p_y = x_y - log s;  H = log s - m;
    d log p_y / d logit_j = [j = y] - e_j / s;  d H / d logit_j = -e_j / s (x_j - m).

    Maximum and sums are those of the tiles so far, scaled when the maximum rises. If the weight is
    frozen, as under LoRA, the mean weight sum e w / s, which the gradient of `hidden` is made of,
    is summed in the forward pass: two products instead of three.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        *of_head, with_entropy, with_gradient = inputs
        head = Head(*of_head)
        top = head.hidden.new_full((len(head.hidden),), NEVER, dtype=head.sums)
        total, moment, target = (torch.zeros_like(top) for _ in range(3))
        is_frozen = with_gradient and ctx.needs_input_grad[:2] == (True, False)
        mean_weight = torch.zeros_like(head.hidden, dtype=head.sums) if is_frozen else None
        second = head.buffer()
        for tile in head.tiles():
            x = tile.logits
            target = torch.where(tile.inside, x.gather(1, tile.column)[:, 0], target)
            highest = torch.maximum(top, x.amax(-1))
            fall, top = top - highest, highest
            scale = fall.exp()
            x.sub_(top[:, None])
            if with_entropy:
                e = torch.exp(x, out=second.columns(x.shape[1]))
                moment = scale * (moment + fall * total) + x.mul_(e).sum(-1)
            else:
                e = x.exp_()
            total = scale * total + e.sum(-1)
            if mean_weight is not None:
                mean_weight *= scale[:, None]
                add_product(mean_weight, e.to(head.hidden.dtype), tile.weight)
        moment /= total
        if mean_weight is not None:
            mean_weight /= total[:, None]
        ctx.set_materialize_grads(False)  # a gradient None: no loss depends on that output
        ctx.save_for_backward(*head[:4], top, total, moment, mean_weight)
        ctx.settings = head[4:]
        log_total = total.log()
        return target - top - log_total, log_total - moment if with_entropy else None

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Any, ...]:
        *of_head, top, total, moment, mean_weight = ctx.saved_tensors
        head = Head(*of_head, *ctx.settings)
        of_target = torch.zeros_like(top) if grad_logprobs is None else grad_logprobs
        of_target = of_target / head.temperature
        if grad_entropy is not None:
            grad_entropy = grad_entropy / head.temperature
        elif mean_weight is not None:
            chosen = head.weight[head.targets].to(head.hidden.dtype)
            grad_hidden = of_target[:, None] * (chosen - mean_weight)
            return grad_hidden.to(head.hidden.dtype), *[None] * 7
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(head.hidden, dtype=head.sums) if needs_hidden else None
        grad_weight = torch.empty_like(head.weight) if needs_weight else None
        softmax = _Softmax(top, total, moment, head.buffer())
        for tile in head.tiles():
            grad = softmax.gradient(tile, of_target, grad_entropy).to(head.hidden.dtype)
            if grad_hidden is not None:
                add_product(grad_hidden, grad, tile.weight)
            if grad_weight is not None:
                set_product(grad_weight[tile.ids], grad.T, head.hidden)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(head.hidden.dtype)
        return grad_hidden, grad_weight, *[None] * 6


class _Softmax(NamedTuple):
    """Maximum `top`, s `total` and m `moment` of whole rows, each [N]; `second` is for a tile."""

    top: Tensor
    total: Tensor
    moment: Tensor
    second: Buffer

    def gradient(self, tile: Tile, of_target: Tensor, of_entropy: Tensor | None) -> Tensor:
        """Return the gradient of the tile's logits before their division, in place of them."""
        of_e = (-of_target / self.total)[:, None]
        x = tile.logits.sub_(self.top[:, None])
        if of_entropy is None:
            gradient = x.exp_().mul_(of_e)
        else:
            of_ex = (-of_entropy / self.total)[:, None]
            e = torch.exp(x, out=self.second.columns(x.shape[1]))
            gradient = x.sub_(self.moment[:, None]).mul_(of_ex).add_(of_e).mul_(e)
        one_hot = torch.where(tile.inside, of_target, 0.0)
        return gradient.scatter_add_(1, tile.column, one_hot[:, None])
