"""Drawing a token per row from the whole softmax, one exponential per logit."""

import torch
from torch import Tensor

CHUNK = 1 << 24
"""Logits drawn from at a time, so that what a draw holds beside the logits does not grow."""


def draw(
    logits: Tensor, banned_ids: Tensor, temperature: float, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw a token per row [R], and its log-probability [R] under the distribution drawn from.

    With `uniforms` [R] in [0, 1), float64, the token of a row is the first whose cumulative
    probability is above its number: the same token whatever the other rows are. `temperature` 0
    takes the likeliest token, and gives its log-probability at temperature 1.
    `logits` [R, V] are overwritten.
    """
    size = max(1, CHUNK // logits.shape[1])
    parts = [
        _draw(part, banned_ids, temperature, numbers)
        for part, numbers in zip(logits.split(size), uniforms.split(size), strict=True)
    ]
    tokens, logprobs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _draw(
    logits: Tensor, banned_ids: Tensor, temperature: float, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature not in (0, 1):
        logits = logits.div_(temperature)
    logits = logits.index_fill_(1, banned_ids, float("-inf"))
    logits = logits.sub_(logits.amax(1, keepdim=True))
    # float64: the sum of a large vocabulary must not round away its rare tokens
    cumulative = logits.exp().cumsum(1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if temperature == 0:
        tokens = logits.argmax(1, keepdim=True)
    else:  # a number below 1 times `total` is below `total`, so there is such a token
        tokens = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
        tokens = tokens.clamp_(max=logits.shape[1] - 1)  # of NaN: the log-probability tells
    logprobs = logits.gather(1, tokens) - total.log()
    return tokens[:, 0], logprobs[:, 0].to(logits.dtype)
