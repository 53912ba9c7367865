"""Whether the kernels of a device give what they should: asked once, before they are used."""

import torch
from torch import Tensor

from vlm_rl.model.attention.merged import merged_attention
from vlm_rl.model.attention.plain import plain_attention
from vlm_rl.model.attention.segments import Group, Segments
from vlm_rl.model.attention.varlen import VarlenKernel, gathered_attention

_GROUPS = (Group(9, (5, 1, 30)), Group(3, ()), Group(20, (40, 3)))
_LARGEST_ERROR = 0.05
"""Of values and gradients near 1 in bfloat16; a wrong mask is far above it."""


def disagreement(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say why variable-length attention cannot be used on a device; None if it can."""
    segments, scale = Segments(_GROUPS, device), 0.125
    size = sum(segments.pieces)
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(heads, size, 64, generator=generator).to(device, dtype).requires_grad_()
        for heads in (4, 2, 2)
    ]

    def results(out: Tensor) -> list[Tensor]:
        return [out, *torch.autograd.grad(out.sum(), leaves)]

    query, key, value = leaves
    with torch.enable_grad():
        right = results(plain_attention(query, key, value, segments, scale))
        try:
            found = [
                results(gathered_attention(query, key, value, segments, scale)),
                results(merged_attention(query, key, value, segments, scale, VarlenKernel())),
            ]
        except (RuntimeError, NotImplementedError) as error:
            return f"fails: {str(error).partition(chr(10))[0]}"
    errors = [
        float((one - other).abs().max())
        for way in found
        for one, other in zip(way, right, strict=True)
    ]
    worst = max(errors)
    return None if worst <= _LARGEST_ERROR else f"is off by {worst:.2g}"
