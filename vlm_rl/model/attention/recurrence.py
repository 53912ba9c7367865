"""Layers with a recurrent state by segments: Gated DeltaNet, three of four layers in Qwen3.5.

Their state would run on from one completion of a packed row into the next, and no mask can stop it.
So prompts are read first, side by side, with their graph. What is at the end of each, the state and
the last columns of the convolution before it, is given to all of its completions, which are read
side by side from there. Both are read by the layer's own forward, for which a cache of transformers
says where to begin. A prompt is padded in front with zeros, which leave an empty state empty, and a
completion behind its end, where nothing reads any more.
"""

import functools
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import LinearAttentionLayer

from vlm_rl.model.attention.segments import Segments, side_by_side

LEAST = 2
"""Columns of completions. Of one token behind a state the layer takes kernels for decoding, which
write into that state and have no backward."""


def read_by_segments(recurrence: nn.Module) -> None:
    """Let a Gated DeltaNet of transformers understand `segments`."""
    recurrence.forward = MethodType(_forward, recurrence)


def _forward(
    module: Any,
    hidden_states: Tensor,
    cache_params: Cache | None = None,
    attention_mask: Tensor | None = None,
    *,
    segments: Segments | None = None,
    **others: Any,
) -> Tensor:
    """Return what the layer makes of a packed row [1, S, H]; without `segments`, of any batch."""
    forward = functools.partial(type(module).forward, module)
    if segments is None:
        any_batch: Tensor = forward(hidden_states, cache_params, attention_mask, **others)
        return any_batch
    lanes = lanes_of(segments)
    prompts, completions = lanes.lay(hidden_states[0])
    outputs: list[Tensor] = []
    ends: list[States] = []
    for lane, beside in zip(lanes.prompts, prompts, strict=True):
        layer = _Read()
        outputs.append(forward(beside, _cache(module, layer), lane.is_real, **others))
        ends.append(layer.states(module.conv_kernel_size))
    for lane, beside in zip(lanes.completions, completions, strict=True):
        layer = _Read.after(_join(ends), lane.owners)
        outputs.append(forward(beside, _cache(module, layer), None, **others))
    return lanes.row(outputs)[None]


class States(NamedTuple):
    """At the end of n prompts: `columns` [n, C, K] into the convolution, and `recurrent`
    [n, H, D, D']."""

    columns: Tensor
    recurrent: Tensor


def _join(ends: Sequence[States]) -> States:
    return States(*(torch.cat(parts) for parts in zip(*ends, strict=True)))


class _Read(LinearAttentionLayer):
    """Where a layer begins and ends. It assigns what transformers copies into memory that backward
    still needs."""

    def __init__(self) -> None:
        super().__init__()
        self.activate_past_recording()

    @classmethod
    def after(cls, states: States, owners: Tensor) -> "_Read":
        """Begin at those of `states` that `owners` name."""
        layer = cls()
        layer.conv_states[0] = states.columns.index_select(0, owners)
        layer.recurrent_states[0] = states.recurrent.index_select(0, owners)
        layer.is_conv_states_initialized[0] = layer.has_previous_state[0] = True
        return layer

    def update_recurrent_state(
        self, recurrent_states: Tensor, state_idx: int = 0, **_: Any
    ) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states

    def states(self, columns: int) -> States:
        """Return those at the end of what was read, a short one with zeros in front."""
        read, recurrent = self.conv_states[0], self.recurrent_states[0]
        assert read is not None
        assert recurrent is not None
        last = read[..., -columns:]
        return States(pad(last, (columns - last.shape[-1], 0)), recurrent)


def _cache(module: Any, layer: _Read) -> Cache:
    """Return a cache that has `layer` in the place of the module."""
    return Cache(layers=[layer] * (module.layer_idx + 1))


class Lane:
    """n pieces side by side in m columns: `places` [n, m] of the row, any where `is_real` [n, m] is
    False. `owners` [n] say where completions begin: at which prompt, as they lie in their lanes."""

    def __init__(self, starts: Tensor, steps: Tensor, lengths: Tensor, owners: Tensor) -> None:
        self.is_real = (steps >= 0) & (steps < lengths[:, None])
        self.places = starts[:, None] + steps.clamp(min=0).minimum(lengths[:, None] - 1)
        self.owners = owners

    def to(self, device: torch.device) -> "Lane":
        """Move what a forward reads to `device`."""
        self.is_real, self.owners = self.is_real.to(device), self.owners.to(device)
        return self


class Lanes:
    """All pieces of a row, in lanes of nearly one length: `prompts` end together, and `completions`
    begin together."""

    def __init__(self, segments: Segments) -> None:
        groups, device = segments.groups, segments.device
        starts, lengths = torch.tensor(segments.starts), torch.tensor(segments.pieces)
        sizes = torch.tensor([1 + len(group.completions) for group in groups])
        owners = torch.arange(len(groups)).repeat_interleave(sizes)
        is_prompt = torch.zeros_like(owners, dtype=torch.bool)
        is_prompt[sizes.cumsum(0) - sizes] = True

        self.prompts: list[Lane] = []
        self.completions: list[Lane] = []
        lane_of, laid = torch.empty_like(sizes), 0  # where each prompt lies among all that are laid
        for part in _parts(lengths, is_prompt):
            longest = int(lengths[part].max())
            steps = torch.arange(longest) - longest + lengths[part, None]
            lane_of[owners[part]] = torch.arange(laid, laid + len(part))
            laid += len(part)
            self.prompts.append(Lane(starts[part], steps, lengths[part], owners[part]))
        for part in _parts(lengths, ~is_prompt):
            steps = torch.arange(max(LEAST, int(lengths[part].max())))[None]
            self.completions.append(Lane(starts[part], steps, lengths[part], lane_of[owners[part]]))

        lanes = [*self.prompts, *self.completions]
        self._shapes = [lane.places.shape for lane in lanes]
        places = torch.cat([lane.places.flatten() for lane in lanes])
        (real,) = torch.cat([lane.is_real.flatten() for lane in lanes]).nonzero(as_tuple=True)
        self._places = places.to(device)
        self._laid_at = torch.empty_like(real).index_copy_(0, places[real], real).to(device)
        for lane in lanes:
            lane.to(device)

    def lay(self, row: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return what lies in the lanes of prompts and in those of completions, each [n, m, H], of
        a `row` [S, H]."""
        sizes = [shape.numel() for shape in self._shapes]
        laid = row.index_select(0, self._places).split(sizes)
        beside = [x.unflatten(0, shape) for x, shape in zip(laid, self._shapes, strict=True)]
        return beside[: len(self.prompts)], beside[len(self.prompts) :]

    def row(self, laid: Sequence[Tensor]) -> Tensor:
        """Return the row [S, H] of what lies in all lanes, without padding."""
        return torch.cat([beside.flatten(0, 1) for beside in laid]).index_select(0, self._laid_at)


def _parts(lengths: Tensor, chosen: Tensor) -> Iterator[Tensor]:
    """Yield the indices of `chosen` pieces, those together that need little padding."""
    (pieces,) = chosen.nonzero(as_tuple=True)
    for part in side_by_side(lengths[pieces].tolist()):
        yield pieces[torch.tensor(part)]


@functools.lru_cache(maxsize=2)
def lanes_of(segments: Segments) -> Lanes:
    """Return the lanes of a row: its layers have the same, and so has a recomputed layer."""
    return Lanes(segments)
