"""Weights that the first process of a run alone has loaded, on their way to the others.

They go part by part, each of which is cut before the next one arrives: no process but the first
ever holds more than its shards and one part. A reference gets its own of each part on the way.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def receive(part: nn.Module, device: torch.device) -> None:
    """Give `part`, on every process, the parameters and buffers that it has on the first one, on
    `device`; what is cut already stays. Elsewhere it may be without storage (device meta)."""

    def received(tensor: Tensor) -> Tensor:
        if dist.get_rank() == 0:
            whole = tensor.detach().to(device).contiguous()
        else:
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        dist.broadcast(whole, 0)
        return whole

    _replace(part, part, received)


def copy_to(reference: nn.Module, part: nn.Module) -> None:
    """Give `reference`, another one like `part`, a copy of its parameters and buffers, without
    gradients."""
    _replace(reference, part, lambda tensor: tensor.detach().clone())
    reference.requires_grad_(False)


def _replace(target: nn.Module, source: nn.Module, new: Callable[[Tensor], Tensor]) -> None:
    """Put what `new` makes of each tensor of `source` in its place in `target`: tied ones stay so,
    which `Module.to_empty` would untie."""
    made: dict[int, Tensor] = {}
    for old, module in zip(source.modules(), target.modules(), strict=True):
        for name, parameter in old._parameters.items():
            if parameter is None or isinstance(parameter, DTensor):
                continue
            key = id(parameter)
            if key not in made:
                made[key] = nn.Parameter(new(parameter), requires_grad=parameter.requires_grad)
            module._parameters[name] = made[key]  # type: ignore[assignment]
        for name, buffer in old._buffers.items():
            if buffer is not None:
                module._buffers[name] = new(buffer)
