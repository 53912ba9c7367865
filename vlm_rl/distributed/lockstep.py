"""Equal forwards on all ranks, with the same parts of the model.

Sharded weights are gathered inside a forward, and gradients averaged inside a backward, by all
ranks together. A rank with fewer forwards, or without an image when another has one, would leave
the others waiting, or fail. So every rank gets equally many forwards, and each of them has an
image: that of a prompt without completions, which nobody attends to and no loss sees.
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
    """One update: its `rows` on this rank, there may be none, and the `forwards` that they are cut
    into, equal in number on all ranks. `has_images`: whether a prompt of some rank has one."""

    rows: R
    forwards: tuple[R, ...]
    has_images: bool


@dataclass(frozen=True, eq=False)
class _Part:
    """Indices of the rows of an update, and of each of its forwards."""

    rows: Tensor
    forwards: Sequence[Tensor]
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

    def prompts(self, rows: Rows) -> list[Prompt]:
        """Return the prompts of all forwards; with several ranks also the one that pads them."""
        return [*rows.prompts, *([] if ranks.world_size() == 1 else [self._filler])]

    def minibatches(self, rows: R) -> list[Minibatch[R]]:
        """Cut `rows`, the same that the cut was made for, with any further fields."""
        return [
            Minibatch(
                rows.select(part.rows),
                tuple(self._forward(rows, index) for index in part.forwards),
                part.has_images,
            )
            for part in self._parts
        ]

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

    def cut(self, rows: Rows, places: Places) -> Cut:
        """Cut between groups into updates of as equal numbers of groups as possible.

        If all ranks together have fewer groups than updates (dynamic sampling may keep few), there
        are as many updates as groups.
        """
        groups = torch.arange(places.total)
        shares = groups.tensor_split(min(self.num_minibatches, max(len(groups), 1)))
        own = [self._own(rows, torch.isin(places.own, share)) for share in shares if len(share)]
        sizes = ranks.gather([(len(part.forwards), part.has_images) for part in own])
        parts = []
        for part, of_ranks in zip(own, zip(*sizes, strict=True), strict=True):
            most = max(count for count, _ in of_ranks)
            fillers = [torch.zeros(0, dtype=torch.int64)] * (most - len(part.forwards))
            has_images = any(images for _, images in of_ranks)
            parts.append(_Part(part.rows, [*part.forwards, *fillers], has_images))
        return Cut(parts, self.filler)

    def empty_forward(self) -> Rows:
        """Return a forward of an image alone."""
        return replace(Rows.build([], [], torch.zeros(0, 0)), prompts=(self.filler,))

    def _own(self, rows: Rows, is_here: Tensor) -> _Part:
        """Cut this rank's rows of one update; `is_here` [P] bool marks its prompts."""
        index = is_here[rows.row_prompt].nonzero()[:, 0]
        own = rows.select(index)
        sizes = [len(forward) for forward in own.micro_batches(self.micro_batch_tokens)]
        return _Part(index, index.split(sizes), _has_image(own))


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
