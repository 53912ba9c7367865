"""The process group of the weight stream: the trainer is rank 0, the engine's workers the others.

It is separate from the default group of `torch.distributed`, which each side has for itself. gloo
over TCP needs no GPU and crosses nodes. A chunk is one flat buffer of bytes, sent by one broadcast.
"""

import math
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

_dist: Any = torch.distributed  # its types are not exported


def open_store(host: str) -> Any:
    """Open the trainer's `TCPStore` on a free port (`.port`) of this node's address `host`."""
    return _dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)


class WeightGroup:
    """One rank of the group. Raises RuntimeError if another rank is gone."""

    def __init__(
        self, store: Any, *, rank: int, world_size: int, own_host: str, timeout_s: float
    ) -> None:
        """Block until all `world_size` ranks have joined; `own_host` is this rank's address."""
        options = _dist.ProcessGroupGloo._Options()
        options._devices = [_dist.ProcessGroupGloo.create_device(hostname=own_host)]
        options._timeout = timedelta(seconds=timeout_s)
        self._store = store
        self._group: Any = _dist.ProcessGroupGloo(store, rank, world_size, options)

    @classmethod
    def join(
        cls, host: str, port: int, *, rank: int, world_size: int, timeout_s: float
    ) -> "WeightGroup":
        """Join as a worker the trainer that waits at `host:port`."""
        store = _dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))
        own = address_towards(host, port)
        return cls(store, rank=rank, world_size=world_size, own_host=own, timeout_s=timeout_s)

    def send(self, buffer: Tensor) -> None:
        """Send the bytes [n] uint8 on the CPU to every worker."""
        self._broadcast(torch.tensor([len(buffer)]))
        self._broadcast(buffer)

    def receive(self) -> Tensor:
        """Receive the bytes that the trainer sends next, [n] uint8 on the CPU."""
        size = torch.zeros(1, dtype=torch.int64)
        self._broadcast(size)
        buffer = torch.empty(int(size), dtype=torch.uint8)
        self._broadcast(buffer)
        return buffer

    def _broadcast(self, tensor: Tensor) -> None:
        options = _dist.BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor], options).wait()


def address_towards(host: str, port: int) -> str:
    """Return this node's address on the route to `host:port`. Raises OSError if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
        probe.connect((host, port))
        return str(probe.getsockname()[0])


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate the bytes of all tensors, on the CPU."""
    return torch.cat([t.detach().cpu().contiguous().flatten().view(torch.uint8) for t in tensors])


def unflatten(
    buffer: Tensor, dtypes: Sequence[str], shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Undo `flatten`, given the types ("float32") and shapes."""
    tensors, start = [], 0
    for name, shape in zip(dtypes, shapes, strict=True):
        dtype: torch.dtype = getattr(torch, name)
        end = start + math.prod(shape) * dtype.itemsize
        # cloned, since a view needs its type's alignment in memory
        tensors.append(buffer[start:end].clone().view(dtype).reshape(*shape))
        start = end
    return tensors
