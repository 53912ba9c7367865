"""Numbers and objects over all ranks of a run; with one process, its own.

Collectives are called on every rank, in the same order: they wait for each other.
"""

from typing import TypeVar

import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from vlm_rl.show.screen import say

T = TypeVar("T")


def have_group() -> bool:
    """Whether a process group exists, be it of one process."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Return the number of ranks of the run."""
    return dist.get_world_size() if have_group() else 1


def rank() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if have_group() else 0


def is_zero() -> bool:
    """Whether this is rank 0, which writes and prints; known before the process group exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


def launched() -> tuple[str, int] | None:
    """Return who started the processes of this run, and how many; None if the trainer does."""
    if TorchElasticEnvironment.detect():  # first, as the trainer asks: it may be inside SLURM
        return "torchrun", TorchElasticEnvironment().world_size()
    if SLURMEnvironment.detect():
        return "SLURM", SLURMEnvironment().world_size()
    return None


def print_once(line: str) -> None:
    """Print on rank 0 what every rank knows."""
    if is_zero():
        say(line)


def gather(value: T) -> list[T]:
    """Return the `value` of every rank, in their order. Tensors in it must be on the CPU."""
    if not have_group():
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def all_sum(value: Tensor) -> Tensor:
    """Sum over all ranks in float64; every rank has the same bits."""
    total = value.detach().double()
    if have_group():
        total = total.clone()
        dist.all_reduce(total)
    return total


def barrier() -> None:
    """Wait for every rank."""
    if have_group():
        gather(None)


def round_robin(shares: list[list[T]]) -> list[T]:
    """Merge shares: the first of each, then the second of each. This undoes dealing item k to rank
    k % world_size."""
    longest = max(map(len, shares), default=0)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
