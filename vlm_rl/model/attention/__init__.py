"""How the tokens of a packed row attend to each other; an attention function of transformers.

May import of `vlm_rl` itself and `show`.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vlm_rl.model.attention.agreement import disagreement
from vlm_rl.model.attention.cpu import CpuKernel
from vlm_rl.model.attention.merged import merged_attention
from vlm_rl.model.attention.plain import plain_attention
from vlm_rl.model.attention.recurrence import read_by_segments
from vlm_rl.model.attention.segments import Group, Segments, padding_of
from vlm_rl.model.attention.varlen import varlen_attention
from vlm_rl.show.screen import warn

NAME = "vlm_rl_segments"
"""The attention function that `attend` is registered as."""

Attention = Callable[[Tensor, Tensor, Tensor, Segments, float], Tensor]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    segments: Segments | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the attention of a packed row, [1, S, H, D]; without `segments` that of any batch.

    `query` [1, H, S, D], `key` and `value` [1, K, S, D]; H heads share K. With `segments` no mask
    is read.
    """
    if segments is None:
        any_batch: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return any_batch
    device = query.device
    if torch.is_autocast_enabled(device.type):  # it reaches torch's own attention, not ours
        dtype = torch.get_autocast_dtype(device.type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    attention = attention_for(device, query.dtype)
    out = attention(query[0], key[0], value[0], segments, scaling)
    return out.transpose(0, 1)[None], None


def use_segments(model: Any, recurrences: Iterable[nn.Module] = ()) -> None:
    """Let the language model of a Qwen-VL, and its layers with a state, understand `segments`."""
    model.set_attn_implementation({"text_config": NAME})
    for recurrence in recurrences:
        read_by_segments(recurrence)


@functools.cache
def attention_for(device: torch.device, dtype: torch.dtype) -> Attention:
    """Return the fastest way that there is on a device."""
    if device.type == "cpu":
        return functools.partial(merged_attention, kernel=CpuKernel())
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        reason = disagreement(device, dtype)
        if reason is None:
            return varlen_attention
        warn(
            f"torch's variable-length attention {reason}, on {device} in {dtype}; plain attention "
            "is used, which is slower: update torch or the driver"
        )
    return plain_attention


def padding_in(groups: Sequence[Group], device: torch.device) -> int:
    """Return how many tokens of padding attention computes beside those of a packed row."""
    return padding_of(groups) if device.type == "cpu" else 0


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)

__all__ = [
    "NAME",
    "Group",
    "Segments",
    "attend",
    "attention_for",
    "padding_in",
    "use_segments",
]
