"""Equal forwards on all ranks, with the same parts of the model.

Sharded weights are gathered inside a forward, and gradients averaged inside a backward, by all
ranks together. A rank with fewer forwards, or without an image when another has one, would leave
the others waiting, or fail. So every rank gets equally many forwards, and each of them has an
image: that of a prompt without completions, which nobody attends to and no loss sees.

Rows from which nothing is learned may be left out of all forwards. But the rows of prompts with
images stay if nothing is learned from any of these in the update, on any rank; and so do those of
prompts without. So each part of the model has the gradient that it has with all rows: of 0 rather
than none, which momentum and weight decay can tell apart. And the engine's drift is measured for
both kinds of prompts, also when its own faults are why nothing is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.distributed.gather import Places
from vlm_rl.model.policy import Policy
from vlm_rl.records import Problem, Prompt, Rows

R = TypeVar("R", bound=Rows)


@dataclass(frozen=True, eq=False)
class Minibatch(Generic[R]):
    """One update: its `rows` on this rank, there may be none, the `forwards` that they are cut
    into, equal in number on all ranks, and those `left_out` of them. `has_images`: whether a prompt
    of some rank has one."""

    rows: R
    forwards: tuple[R, ...]
    left_out: R
    has_images: bool


@dataclass(frozen=True, eq=False)
class _Part:
    """Indices of the rows of an update, of each of its forwards, and of those in none."""

    rows: Tensor
    forwards: Sequence[Tensor]
    left_out: Tensor
    has_images: bool


class Cut:
    """How the rows of a step are cut into updates and these into forwards."""

    def __init__(self, parts: Sequence[_Part], filler: Prompt) -> None:
        self._parts = parts
        self._filler = filler

    @property
    def num_updates(self) -> int:
        """Return the number of updates, the same on all ranks."""
        return len(self._parts)

    @property
    def _forwards(self) -> list[Tensor]:
        return [index for part in self._parts for index in part.forwards]

    def last_update(self) -> "Cut":
        """Return the cut of the last update alone."""
        return Cut(self._parts[-1:], self._filler)

    def prompts(self, rows: Rows) -> list[Prompt]:
        """Return the prompts of all forwards; with several ranks also the one that pads them."""
        computed = torch.cat([torch.zeros(0, dtype=torch.int64), *self._forwards]).sort().values
        prompts = rows.select(computed).prompts
        return [*prompts, *([] if ranks.world_size() == 1 else [self._filler])]

    def joined(self, rows: Rows, of_forwards: Sequence[Tensor] = ()) -> Tensor:
        """Return [B, T] of what each forward gave for its own rows; NaN in all others."""
        like = of_forwards[0] if of_forwards else torch.zeros(0)
        whole = like.new_full(rows.completion_mask.shape, torch.nan)
        for index, values in zip(self._forwards, of_forwards, strict=bool(of_forwards)):
            whole[index.to(whole.device)] = values
        return whole

    def by_row(self, rows: Rows, of_forwards: Sequence[Tensor]) -> Tensor:
        """Return [B, n] of what each forward gave for its own rows, [b, n]; 0 in all others."""
        whole = of_forwards[0].new_zeros(len(rows), of_forwards[0].shape[1])
        for index, values in zip(self._forwards, of_forwards, strict=True):
            whole[index.to(whole.device)] = values
        return whole

    def computed(self, rows: R) -> R:
        """Return `rows` without a trained token in those left out."""
        left_out = torch.cat([part.left_out for part in self._parts] or [torch.zeros(0).long()])
        mask = rows.completion_mask.clone()
        mask[left_out.to(mask.device)] = False
        return replace(rows, completion_mask=mask)

    def minibatches(self, rows: R) -> list[Minibatch[R]]:
        """Cut `rows`, the same that the cut was made for, with any further fields."""
        return [
            Minibatch(
                rows.select(part.rows),
                tuple(self._forward(rows, index) for index in part.forwards),
                rows.select(part.left_out),
                part.has_images,
            )
            for part in self._parts
        ]

    def forwards(self, rows: R) -> list[R]:
        """Return those of all updates, in their order."""
        return [forward for part in self.minibatches(rows) for forward in part.forwards]

    def _forward(self, rows: R, index: Tensor) -> R:
        """Select the rows of a forward; with several ranks it has an image."""
        forward = rows.select(index)
        if ranks.world_size() == 1 or _has_image(forward):
            return forward
        return replace(forward, prompts=(*forward.prompts, self._filler))


class Lockstep:
    """Cuts the rows of a step for a policy, into `num_minibatches` updates with forwards of at most
    `micro_batch_tokens` tokens. Make it before weights are sharded."""

    def __init__(self, policy: Policy, *, num_minibatches: int, micro_batch_tokens: int) -> None:
        self.num_minibatches = num_minibatches
        self.micro_batch_tokens = micro_batch_tokens
        self.filler = smallest_prompt(policy)

    def cut(self, rows: Rows, places: Places, counts: Tensor | None = None) -> Cut:
        """Cut between groups into updates of as equal numbers of groups as possible.

        If all ranks together have fewer groups than updates (dynamic sampling may keep few), there
        are as many updates as groups. Only rows that `counts` [B] bool marks are cut into forwards,
        by default all, and those of a kind, with images or without, of which it marks none.
        """
        groups = torch.arange(places.total)
        shares = groups.tensor_split(min(self.num_minibatches, max(len(groups), 1)))
        here = [torch.isin(places.own, share)[rows.row_prompt] for share in shares if len(share)]
        own = [
            self._own(rows, is_here, computed)
            for is_here, computed in zip(here, _computed(rows, here, counts), strict=True)
        ]
        sizes = ranks.gather([(len(part.forwards), part.has_images) for part in own])
        parts = []
        for part, of_ranks in zip(own, zip(*sizes, strict=True), strict=True):
            most = max(count for count, _ in of_ranks)
            fillers = [torch.zeros(0, dtype=torch.int64)] * (most - len(part.forwards))
            has_images = any(images for _, images in of_ranks)
            forwards = [*part.forwards, *fillers]
            parts.append(replace(part, forwards=forwards, has_images=has_images))
        return Cut(parts, self.filler)

    def empty_forward(self) -> Rows:
        """Return a forward of an image alone."""
        return replace(Rows.build([], [], torch.zeros(0, 0)), prompts=(self.filler,))

    def _own(self, rows: Rows, is_here: Tensor, computed: Tensor) -> _Part:
        """Cut this rank's rows of one update, [B] bool, those that are `computed` into forwards."""
        whole, index, left_out = (
            mask.nonzero()[:, 0] for mask in (is_here, is_here & computed, is_here & ~computed)
        )
        own = rows.select(index)
        sizes = [len(forward) for forward in own.micro_batches(self.micro_batch_tokens)]
        return _Part(whole, index.split(sizes), left_out, _has_image(own))


def _computed(rows: Rows, updates: Sequence[Tensor], counts: Tensor | None) -> list[Tensor]:
    """Return for each of `updates`, the masks [B] of its rows, which of these are in a forward."""
    if counts is None:
        return [*updates]
    of_prompt = [bool(prompt.images) for prompt in rows.prompts]
    has_images = torch.tensor(of_prompt, dtype=torch.bool)[rows.row_prompt]
    own = [has_images[is_here & counts].tolist() for is_here in updates]
    kinds = [set().union(*of_ranks) for of_ranks in zip(*ranks.gather(own), strict=True)]
    return [counts | torch.where(has_images, True not in kind, False not in kind) for kind in kinds]


def smallest_prompt(policy: Policy) -> Prompt:
    """Make the smallest image that the vision tower takes: one token."""
    config = policy.model.config
    merge = config.vision_config.spatial_merge_size
    tower: Any = policy.part("vision_tower")
    patch_dim = tower.patch_embed.proj.weight[0].numel()
    ids = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
    token_ids = torch.tensor(ids)
    return Prompt(
        problem=Problem("padding", "no question", "no answer"),
        token_ids=token_ids,
        unexpanded_ids=token_ids,
        positions=torch.arange(3).expand(3, -1),
        pixel_values=torch.zeros(merge * merge, patch_dim),
        grid_thw=torch.tensor([[1, merge, merge]]),
        images=(Image.new("RGB", (1, 1)),),
    )


def _has_image(rows: Rows) -> bool:
    return any(prompt.images for prompt in rows.prompts)
