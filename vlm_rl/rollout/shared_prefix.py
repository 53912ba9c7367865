"""Attention of completions to the prompt of their group, whose keys and values are held once.

A row's token attends to [the prompt; the row's own tokens]. Both parts are computed apart and
joined: with scores s, peak m = max s, total z = sum exp(s - m), and o = sum exp(s - m) v of each,

    M = max(m_prompt, m_own),   a = exp(m - M),   out = sum(a o) / sum(a z)

which is the softmax over both. All rows of a prompt are its queries in one product, and so are the
query heads that share a key head, so that no key is ever repeated.

It is an attention function of transformers by the name `SHARED_PREFIX`, so every model family has
it. Layers whose cache is of another kind, and a prefill, get SDPA.

A recurrent state goes on by itself: at the end of its prompt every row gets a copy. In the prefill
transformers puts zeros where a prompt is padded on the left, which leave an empty state empty, so
that no prompt depends on the lengths of the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, LinearAttentionLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX = "vlm_rl_shared_prefix"

BLOCK = 64
"""Tokens by which the room of a row grows: growing copies, so it must be rare, and room that is
never used must be little."""


@dataclass
class Grid:
    """Where R rows are when they are laid out by prompt: P prompts with room for W rows each.

    `slots` [R] are their places among the P * W, or None if they fill them all in order. `padding`
    [P, S] is True where a prompt is padded, or None if no prompt is.
    """

    num_prompts: int
    width: int
    slots: Tensor | None
    padding: Tensor | None

    def lay(self, rows: Tensor) -> Tensor:
        """Lay out `rows` [R, H, N, D] as [P, H, W * N, D], 0 in free places."""
        if self.slots is not None:
            room = rows.new_zeros(self.num_prompts * self.width, *rows.shape[1:])
            rows = room.index_copy_(0, self.slots, rows)
        laid = rows.view(self.num_prompts, self.width, *rows.shape[1:])
        return laid.transpose(1, 2).flatten(2, 3)

    def rows(self, laid: Tensor) -> Tensor:
        """Take the rows [R, H, N, D] out of [P, H, W * N, D]."""
        prompts, heads, _, size = laid.shape
        rows = laid.view(prompts, heads, self.width, -1, size).transpose(1, 2).flatten(0, 1)
        return rows if self.slots is None else rows[self.slots]


class SharedPrefixLayer(CacheLayerMixin):
    """Keys and values of one layer: `prefix_keys` [P, H, S, D] of the prompts, `keys` [R, H, C, D]
    of the rows, which have `length` tokens and room for C; values likewise."""

    is_sliding = False

    def __init__(self, prefix_keys: Tensor, prefix_values: Tensor, num_rows: int) -> None:
        super().__init__()
        self.prefix_keys, self.prefix_values = prefix_keys, prefix_values
        self.length = 0
        shape = (num_rows, prefix_keys.shape[1], 0)
        self.keys: Tensor = prefix_keys.new_empty(*shape, prefix_keys.shape[-1])
        self.values: Tensor = prefix_values.new_empty(*shape, prefix_values.shape[-1])
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: a prefill made this layer."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append one token per row, [R, H, 1, D]; return the rows' own keys and values so far."""
        if self.length == self.keys.shape[2]:
            self.keys = nn.functional.pad(self.keys, (0, 0, 0, BLOCK))
            self.values = nn.functional.pad(self.values, (0, 0, 0, BLOCK))
        self.keys[:, :, self.length] = key_states[:, :, 0]
        self.values[:, :, self.length] = value_states[:, :, 0]
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.prefix_keys.shape[2] + self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def batch_select_indices(self, indices: Tensor) -> None:
        self.keys, self.values = self.keys[indices], self.values[indices]

    def select_prompts(self, indices: Tensor) -> None:
        """Keep only the prompts at `indices`."""
        self.prefix_keys = self.prefix_keys[indices]
        self.prefix_values = self.prefix_values[indices]


class SharedPrefixCache(Cache):
    """A prefill's cache, made ready for `group_size` completions of each prompt.

    `attention` [P, S] marks the prompts' tokens that are not padding. Layers that are not plain
    full attention keep transformers' own cache, with every prompt repeated for its completions, and
    so do recurrences with their states.
    """

    def __init__(self, prefill: DynamicCache, attention: Tensor, group_size: int) -> None:
        num_prompts = len(attention)
        super().__init__(layers=prefill.layers)
        self.prompt_of = torch.arange(num_prompts, device=attention.device)
        self.prompt_of = self.prompt_of.repeat_interleave(group_size)
        for index, layer in enumerate(self.layers):
            if type(layer) is DynamicLayer:
                keys, values = layer.keys, layer.values
                self.layers[index] = SharedPrefixLayer(keys, values, num_prompts * group_size)
            elif type(layer) is LinearAttentionLayer:
                layer.reorder_cache(self.prompt_of)
            else:
                layer.batch_repeat_interleave(group_size)
        padding = None if bool(attention.all()) else attention == 0
        self.grid = Grid(num_prompts, group_size, None, padding)

    @property
    def needs_mask(self) -> bool:
        """Whether a layer attends through transformers' own mask."""
        without = (SharedPrefixLayer, LinearAttentionLayer)
        return not all(isinstance(layer, without) for layer in self.layers)

    def batch_select_indices(self, indices: Tensor) -> None:
        for layer in self.layers:
            if type(layer) is LinearAttentionLayer:
                layer.reorder_cache(indices)
            else:
                layer.batch_select_indices(indices)

    def keep(self, rows: Tensor) -> None:
        """Keep only `rows`, ascending; prompts without a row go too."""
        self.batch_select_indices(rows)
        kept, self.prompt_of, counts = self.prompt_of[rows].unique_consecutive(
            return_inverse=True, return_counts=True
        )
        padding = self.grid.padding
        if len(kept) < self.grid.num_prompts:
            for layer in self.layers:
                if isinstance(layer, SharedPrefixLayer):
                    layer.select_prompts(kept)
            padding = None if padding is None else padding[kept]
        width, first = int(counts.max()), counts.cumsum(0) - counts
        place = torch.arange(len(rows), device=rows.device) - first[self.prompt_of]
        self.grid = Grid(len(kept), width, self.prompt_of * width + place, padding)


@contextmanager
def attending(language_model: Any) -> Iterator[None]:
    """Let the model attend by `attend` inside, to keys and values of a `SharedPrefixCache`."""
    config = language_model.config
    before = config._attn_implementation
    config._attn_implementation = SHARED_PREFIX
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    shared: SharedPrefixCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend from one token per row: `query` [R, Hq, 1, D], the rows' own `key` [R, H, T, D].

    Returns [R, 1, Hq, D], and no weights. `shared` holds the prompts; without it, and in a layer
    that it does not hold, this is SDPA.
    """
    index: Any = module.layer_idx if shared is not None else None
    layer = None if shared is None else shared.layers[index]
    if shared is None or not isinstance(layer, SharedPrefixLayer):
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return out, None
    rows, heads, _, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    query = (query * scale).view(rows, key.shape[1], -1, size)
    with torch.autocast(query.device.type, enabled=False):  # it would round the scores
        grid = shared.grid
        laid = _part(grid.lay(query), layer.prefix_keys, layer.prefix_values, grid.padding)
        prompt_out, prompt_peak, prompt_total = (grid.rows(part) for part in laid)
        own_out, own_peak, own_total = _part(query, key, value, None)
        peak = torch.maximum(prompt_peak, own_peak)
        prompt_share, own_share = (prompt_peak - peak).exp_(), (own_peak - peak).exp_()
        out = prompt_share * prompt_out + own_share * own_out
        out = (out / (prompt_share * prompt_total + own_share * own_total)).to(value.dtype)
    return out.reshape(rows, 1, heads, size), None


def _part(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from [B, H, N, D] to [B, H, T, D]; return o [B, H, N, D], and m and z [B, H, N, 1].

    Scores and sums are float32 at least: bfloat16 would round a score of 10 by 0.03.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(wide) @ key.to(wide).transpose(-1, -2)
    if padding is not None:
        scores.masked_fill_(padding[:, None, None], float("-inf"))
    peak = scores.amax(-1, keepdim=True)
    weights = scores.sub_(peak).exp_()
    return (weights.to(value.dtype) @ value).to(wide), peak, weights.sum(-1, keepdim=True)


AttentionInterface.register(SHARED_PREFIX, attend)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
