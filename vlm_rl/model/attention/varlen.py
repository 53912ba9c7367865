"""Flash attention between pieces on a GPU: one variable-length call for all of them.

torch's kernel (`torch.nn.attention.varlen`) takes [T, H, D] with the sequences one behind the
other, float16 or bfloat16. Causal means aligned at the bottom right: the last query sees all keys.
Two ways to use it give the same values:

- merged: every piece to itself, in place, and completions to their prompt; two calls a layer, which
  `vlm_rl.model.attention.merged` puts together. No key is copied.
- gathered: a prompt, or a completion behind its prompt, is one sequence of keys; one call a layer,
  with a copy of the prompt's keys for each completion.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from vlm_rl.model.attention.merged import Attended, Gradients, Saved, merged_attention
from vlm_rl.model.attention.segments import Segments


class VarlenKernel:
    """See `vlm_rl.model.attention.merged.Kernel`."""

    def to_itself(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> Attended:
        pieces = segments.pieces
        return _forward(query, key, value, pieces, pieces, causal=True, scale=scale)

    def to_itself_backward(self, saved: Saved, segments: Segments, scale: float) -> Gradients:
        return _backward(saved, segments.pieces, segments.pieces, causal=True, scale=scale)

    def to_prompt(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> Attended:
        asked, prompts = segments.answers, segments.prompts
        return _forward(query, key, value, asked, prompts, causal=False, scale=scale)

    def to_prompt_backward(self, saved: Saved, segments: Segments, scale: float) -> Gradients:
        return _backward(saved, segments.answers, segments.prompts, causal=False, scale=scale)


def gathered_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
) -> Tensor:
    """Return the attention of a packed row, [H, S, D]; `query` [H, S, D], the others [K, S, D]."""
    index, lengths = segments.keys_of_pieces
    out = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1)[index],
        value.transpose(0, 1)[index],
        _ends(segments.pieces, query.device),
        _ends(lengths, query.device),
        max(segments.pieces),
        max(lengths),
        scale=scale,
        window_size=_CAUSAL,
        enable_gqa=True,
    )
    assert isinstance(out, Tensor)  # it is a pair only where the log-sum-exp is asked for
    return out.transpose(0, 1)


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
) -> Tensor:
    """Return the attention of a packed row, the way that copies less; shapes as above."""
    heads, _, width = query.shape
    key_heads = key.shape[0]
    copied = sum(g.prompt * len(g.completions) for g in segments.groups) * 2 * key_heads * width
    second_outputs = sum(segments.answers) * heads * width
    if copied <= second_outputs:
        return gathered_attention(query, key, value, segments, scale)
    return merged_attention(query, key, value, segments, scale, VarlenKernel())


_CAUSAL, _FULL = (-1, 0), (-1, -1)  # keys to the left and to the right of the diagonal


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequence[int],
    keys: Sequence[int],
    *,
    causal: bool,
    scale: float,
) -> Attended:
    # the public function gives no way to a backward with another log-sum-exp; it calls these two
    out, lse, _ = torch.ops.torch_attn._varlen_attn(
        *(x.transpose(0, 1).contiguous() for x in (query, key, value)),
        _ends(queries, query.device),
        _ends(keys, query.device),
        max(queries),
        max(keys),
        causal,
        scale,
        [*(_CAUSAL if causal else _FULL)],
        enable_gqa=True,
    )
    return Attended(out.transpose(0, 1), lse)


def _backward(
    saved: Saved, queries: Sequence[int], keys: Sequence[int], *, causal: bool, scale: float
) -> Gradients:
    query, key, value, out, grad_out = (
        x.transpose(0, 1).contiguous()
        for x in (saved.query, saved.key, saved.value, saved.out, saved.grad_out)
    )
    device = query.device
    gradients = torch.ops.torch_attn._varlen_attn_backward(
        grad_out,
        query,
        key,
        value,
        out,
        saved.lse.contiguous(),
        _ends(queries, device),
        _ends(keys, device),
        max(queries),
        max(keys),
        causal,
        torch.zeros(2, dtype=torch.uint64, device=device),  # state of a dropout that there is not
        scale,
        [*(_CAUSAL if causal else _FULL)],
    )
    of_query, of_key, of_value = (gradient.transpose(0, 1) for gradient in gradients)
    return of_query, of_key, of_value


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    """[n + 1] int32: where each sequence starts, and the last ends."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
