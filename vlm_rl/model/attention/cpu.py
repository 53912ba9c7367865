"""Flash attention between pieces on a CPU, in float32, float64 or bfloat16.

Pieces of nearly one length are computed side by side, each group's completions against its prompt
in one call.
"""

import torch
from torch import Tensor

from vlm_rl.model.attention.merged import Attended, Gradients, Saved
from vlm_rl.model.attention.segments import Segments

# scaled_dot_product_attention calls these two, and does not tell the log-sum-exp
_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class CpuKernel:
    """See `vlm_rl.model.attention.merged.Kernel`."""

    def to_itself(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> Attended:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:2], dtype=_lse_dtype(query))
        for bucket in segments.buckets:
            beside = (bucket.of(x) for x in (query, key, value))
            its_out, its_lse = _FORWARD(*beside, 0.0, True, scale=scale)
            bucket.put(out, its_out)
            bucket.put(lse, its_lse)
        return Attended(out, lse)

    def to_itself_backward(self, saved: Saved, segments: Segments, scale: float) -> Gradients:
        gradients = tuple(torch.empty_like(x) for x in (saved.query, saved.key, saved.value))
        for bucket in segments.buckets:
            query, key, value, out, lse, grad = (bucket.of(x) for x in saved)
            grad = bucket.without_padding(grad)  # nothing flows out of it
            of_bucket = _BACKWARD(grad, query, key, value, out, lse, 0.0, True, scale=scale)
            for whole, part in zip(gradients, of_bucket, strict=True):
                bucket.put(whole, part)
        return gradients[0], gradients[1], gradients[2]

    def to_prompt(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> Attended:
        asked, prompts = segments.answers, segments.prompts
        parts = [
            _FORWARD(q[None], k[None], v[None], 0.0, False, scale=scale)
            for q, k, v in zip(
                query.split(asked, 1), key.split(prompts, 1), value.split(prompts, 1), strict=True
            )
        ]
        return Attended(
            torch.cat([out[0] for out, _ in parts], 1), torch.cat([lse[0] for _, lse in parts], 1)
        )

    def to_prompt_backward(self, saved: Saved, segments: Segments, scale: float) -> Gradients:
        asked, prompts = segments.answers, segments.prompts
        sizes = (asked, prompts, prompts, asked, asked, asked)
        groups = zip(*(x.split(size, 1) for x, size in zip(saved, sizes, strict=True)), strict=True)
        parts = []
        for group in groups:
            query, key, value, out, lse, grad = (x[None] for x in group)
            parts.append(_BACKWARD(grad, query, key, value, out, lse, 0.0, False, scale=scale))
        of_query, of_key, of_value = (
            torch.cat([part[i][0] for part in parts], 1) for i in range(3)
        )
        return of_query, of_key, of_value


def _lse_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32
