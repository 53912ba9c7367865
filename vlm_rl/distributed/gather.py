"""What ranks exchange in a step: where their groups stand, rollouts, and sequences of an update."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.objectives import Sequences
from vlm_rl.records import Prompt, Rollout


@dataclass(frozen=True, eq=False)
class Places:
    """Where this rank's groups stand among those of all ranks.

    The order of a step takes the groups of the ranks in turn, which undoes how the data set was
    dealt. `own` [P] int64 are this rank's places in it, `total` counts the groups of all ranks.
    """

    own: Tensor
    total: int

    @classmethod
    def of(cls, num_groups: Sequence[int]) -> "Places":
        """Make them from the number of groups of each rank."""
        order = ranks.round_robin([[rank] * count for rank, count in enumerate(num_groups)])
        own = [place for place, rank in enumerate(order) if rank == ranks.rank()]
        return cls(torch.tensor(own, dtype=torch.int64), len(order))


def rollout(own: Rollout) -> Rollout:
    """Gather the groups of every rank, without images and experts, in the order of `Places`."""
    if ranks.world_size() == 1:
        return own
    groups = [[replace(c, experts=None) for c in group] for group in own.groups]
    prompts = [_without_images(prompt) for prompt in own.prompts]
    parts = ranks.gather(replace(own, prompts=prompts, groups=groups))
    offset, indices = 0, []
    for part in parts:
        indices.append(list(range(offset, offset + len(part.prompts))))
        offset += len(part.prompts)
    return Rollout.joined(parts).select(ranks.round_robin(indices))


def sequences(own: Sequences) -> Sequences:
    """Gather the rows of every rank, rank by rank, on the CPU; with one process, return `own`."""
    if ranks.world_size() == 1:
        return own
    return Sequences.joined(ranks.gather(Sequences(*(column.cpu() for column in own))))


def _without_images(prompt: Prompt) -> Prompt:
    problem = replace(prompt.problem, images=())
    return replace(prompt, problem=problem, pixel_values=None, grid_thw=None, images=())
