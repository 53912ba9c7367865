"""Attention by segments through torch's public attention alone, for every device and precision.

Piece by piece; keys of a prompt are copied for each of its completions, one at a time. Slower than
the kernels beside it, and what they are compared with.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vlm_rl.model.attention.segments import Segments


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
) -> Tensor:
    """Return the attention of a packed row, [H, S, D]; `query` [H, S, D], the others [K, S, D]."""
    repeats = len(query) // len(key)
    queries = iter(query.split(segments.pieces, 1))
    keys = iter(key.repeat_interleave(repeats, 0).split(segments.pieces, 1))
    values = iter(value.repeat_interleave(repeats, 0).split(segments.pieces, 1))
    outputs = []
    for group in segments.groups:
        q, prompt_keys, prompt_values = next(queries), next(keys), next(values)
        outputs.append(_attend(q, prompt_keys, prompt_values, scale))
        for _ in group.completions:
            all_keys = torch.cat([prompt_keys, next(keys)], 1)
            all_values = torch.cat([prompt_values, next(values)], 1)
            outputs.append(_attend(next(queries), all_keys, all_values, scale))
    return torch.cat(outputs, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Let the last query see all keys, the one before all but the last, and so on."""
    queries, keys = query.shape[1], key.shape[1]
    mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, scale=scale
    )[0]
