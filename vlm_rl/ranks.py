"""Numbers and objects over all processes of a run; with one process, that one's own.

Whoever calls one of these is called on every process, in the same order: they wait for each other.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

T = TypeVar("T")


def have_met() -> bool:
    """Whether there is a process group, be it of one process."""
    return dist.is_available() and dist.is_initialized()


def count() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if have_met() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if have_met() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks, known before processes have met."""
    return getattr(rank_zero_only, "rank", 0) == 0


def launched() -> tuple[str, int] | None:
    """Who has started the processes of this run, and how many; None where the trainer does."""
    if TorchElasticEnvironment.detect():  # first, as the trainer asks: it may be inside SLURM
        return "torchrun", TorchElasticEnvironment().world_size()
    if SLURMEnvironment.detect():
        return "SLURM", SLURMEnvironment().world_size()
    return None


def say(line: str) -> None:
    """Print what every process has found out, once."""
    if is_first():
        print(line)


def gather(value: T) -> list[T]:
    """The `value` of every process, by rank. Tensors in it must be on the CPU."""
    if not have_met():
        return [value]
    found: list[T | None] = [None] * count()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def all_sum(value: Tensor) -> Tensor:
    """Summed over all processes, float64; every process has the same bits."""
    total = value.detach().double()
    if have_met():
        total = total.clone()
        dist.all_reduce(total)
    return total


def barrier() -> None:
    """Wait for every process."""
    if have_met():
        gather(None)


def round_robin(shares: list[list[T]]) -> list[T]:
    """The first of each share, then the second of each: the order before slot k was given to
    process k % count."""
    longest = max(map(len, shares), default=0)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]


def own_places(num_own: int) -> Tensor:
    """Where this process's items are in the `round_robin` of all, [num_own] int64."""
    shares = [[(owner, i) for i in range(num)] for owner, num in enumerate(gather(num_own))]
    order = round_robin(shares)
    own = rank()
    return torch.tensor([k for k, (owner, _) in enumerate(order) if owner == own]).long()
