"""As many updates and forwards, with the same parts of the model, on every process.

Sharded weights are gathered inside a forward, and gradients averaged inside a backward, by all
processes together. One that has fewer micro-batches, or no image in its own where another has one,
would leave the others waiting, or fail. So each gets as many, and each of them has an image: that
of a prompt without completions, which nobody attends to and no loss sees.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.model.policy import Policy
from vlm_rl.records import Problem, Prompt, Rows

R = TypeVar("R", bound=Rows)


def smallest_prompt(policy: Policy) -> Prompt:
    """The smallest image that the vision tower takes: one token. Ask before weights are sharded."""
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


def minibatches(rows: R, number: int) -> list[R]:
    """The rows of each update, cut between groups into parts of as equal a number as possible.
    Where all processes together have fewer groups than `number` (dynamic sampling may find few),
    there are as many updates as groups. A process may have no row in one of them."""
    own = ranks.own_places(len(rows.prompts))
    groups = torch.arange(sum(ranks.gather(len(own))))
    parts = groups.tensor_split(min(number, max(len(groups), 1)))
    return [rows.of_prompts(torch.isin(own, p).nonzero()[:, 0]) for p in parts if len(p)]


def level(micros: Sequence[R], smallest: Prompt) -> tuple[list[R], list[Rows]]:
    """`micros`, each with an image, and the forwards without rows that follow them so that every
    process has equally many. With one process `micros` as they are."""
    if ranks.count() == 1:
        return list(micros), []
    most = max(ranks.gather(len(micros)))
    own = [micro if _has_image(micro) else _with(micro, smallest) for micro in micros]
    return own, [nothing(smallest)] * (most - len(micros))


def anyone_has_images(micros: Sequence[Rows]) -> bool:
    """Whether the prompts of some process have an image."""
    return any(ranks.gather(any(map(_has_image, micros))))


def nothing(smallest: Prompt) -> Rows:
    """A forward of an image alone."""
    return replace(Rows.build([], [], torch.zeros(0, 0)), prompts=(smallest,))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """What the forwards gave, row after row; those without rows may be of another width."""
    return torch.cat([part for part in parts if len(part)] or [parts[0]])


def _has_image(rows: Rows) -> bool:
    return any(prompt.images for prompt in rows.prompts)


def _with(rows: R, smallest: Prompt) -> R:
    return replace(rows, prompts=(*rows.prompts, smallest))
