"""FSDP2: weights, gradients and optimizer state are sharded among all ranks alike.

Blocks of the vision tower, the tower, layers of the language model and the rest are gathered one
after the other. The rest has the embeddings and the head, which `Policy.forward` reads: it is the
root. Only rank 0 loads the weights and broadcasts them part by part; each part is sharded before
the next one arrives, so that every other rank holds its shards and one part at most.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from vlm_rl import ranks
from vlm_rl.distributed.rank_strategy import RankStrategy
from vlm_rl.model.policy import Policy
from vlm_rl.model.reference import Reference, reference_of
from vlm_rl.model.shards import Shards
from vlm_rl.records import Rows


class FSDP2Strategy(RankStrategy, ModelParallelStrategy):
    """A checkpoint is one file, as one process writes it: such a run may resume with any number of
    ranks and any strategy but DeepSpeed. Gradients are averaged in every micro-batch, because an
    unsharded gradient is as large as the whole model in float32."""

    def __init__(self, *, offload: bool) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self._wants_offload = offload

    @property
    def offload(self) -> bool:
        """Whether weights wait on the CPU; if they are computed there too, nothing has to."""
        return self._wants_offload and self.root_device.type == "cuda"

    @property
    def loads_weights(self) -> bool:
        return ranks.is_zero()

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        if self.offload:  # gradients and norms are summed on the CPU too, which nccl cannot
            self._process_group_backend = "cpu:gloo,cuda:nccl"
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Load also the checkpoint of one process, whose optimizer numbers the parameters that it
        trains by its groups; Lightning would take the numbers for those of all parameters."""
        optimizers, self.optimizers = self.optimizers, []
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        self.optimizers = optimizers
        assert self.model is not None
        whole = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        for optimizer, saved in zip(optimizers, checkpoint["optimizer_states"], strict=True):
            named = _by_name(saved, optimizer, self.model)
            set_optimizer_state_dict(self.model, optimizer, named, options=whole)
        return checkpoint

    def model_to_device(self) -> None:
        if not self.offload:  # otherwise only buffers are there, and `fully_shard` has moved them
            super().model_to_device()

    def spread(self, policy: Policy, *, with_reference: bool) -> Reference | None:
        """Shard policy and reference in place, part by part, as the weights arrive from rank 0."""
        policy.shards = FSDP2Shards()
        if policy.has_adapters or not with_reference:
            self._shard(policy, None)
            return reference_of(policy) if with_reference else None
        twin = policy.empty_copy()
        self._shard(policy, twin)
        return Reference(twin)

    def _shard(self, policy: Policy, twin: Policy | None) -> None:
        how = self._how()
        parts = _parts(policy)
        twins = _parts(twin) if twin else [None] * len(parts)
        for part, other in zip(parts, twins, strict=True):
            _broadcast(part, self.root_device)
            if other is not None:
                _copy(other, part)
                fully_shard(other, **how)
            fully_shard(part, **how)

    def begin(self, policy: Policy, forward: Rows) -> None:
        """Run the policy once: only then do its sharded parts know which of them is the root, and
        before that no part may run by itself."""
        with policy.evaluating():
            policy.logprobs(forward, temperature=1.0)

    def _how(self) -> dict[str, Any]:
        half = self.precision_plugin.precision == "bf16-mixed"
        return {
            "mesh": self.device_mesh["data_parallel"],
            # autocast decides what is computed in bfloat16; this is what travels
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if half else None,
                reduce_dtype=torch.float32 if half else None,
                cast_forward_inputs=False,
            ),
            "offload_policy": CPUOffloadPolicy() if self.offload else OffloadPolicy(),
            "reshard_after_forward": True,
        }


STRATEGIES: Mapping[str, Callable[[bool], FSDP2Strategy]] = {
    "fsdp2": lambda half: FSDP2Strategy(offload=False),
    "fsdp2_offload": lambda half: FSDP2Strategy(offload=True),
}


class FSDP2Shards(Shards):
    """Parameters are `DTensor`s, of which each rank holds its rows."""

    are_whole = False

    def own(self, parameter: Tensor) -> Tensor:
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter

    @contextmanager
    def gathered(self, policy: nn.Module) -> Iterator[None]:
        """Gather every part and keep it gathered over any number of forwards."""
        parts = [module for module in policy.modules() if isinstance(module, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)


def _by_name(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, Any]:
    """Return a saved state of `optimizer` with names of parameters in place of numbers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of_number: dict[int, str] = {}
    for before, now in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        own = [names[id(parameter)] for parameter in now["params"]]
        of_number |= dict(zip(before["params"], own, strict=True))
    groups = saved["param_groups"]
    return {
        "state": {of_number[number]: state for number, state in saved["state"].items()},
        "param_groups": [g | {"params": [of_number[n] for n in g["params"]]} for g in groups],
    }


def _parts(policy: Policy) -> list[nn.Module]:
    """List what is gathered at a time, each part before the one that it is in."""
    tower: Any = policy.part("vision_tower")
    language: Any = policy.part("language_model")
    return [*tower.blocks, tower, *language.layers, policy]


def _broadcast(part: nn.Module, device: torch.device) -> None:
    """Give `part` on every rank the parameters and buffers that it has on rank 0, on `device`.
    What is sharded already stays. Elsewhere it may be without storage (device meta)."""

    def received(tensor: Tensor) -> Tensor:
        if dist.get_rank() == 0:
            whole = tensor.detach().to(device).contiguous()
        else:
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        dist.broadcast(whole, 0)
        return whole

    _replace(part, part, received)


def _copy(target: nn.Module, part: nn.Module) -> None:
    """Give `target` a copy of the parameters and buffers of `part`, without gradients."""
    _replace(target, part, lambda tensor: tensor.detach().clone())
    target.requires_grad_(False)


def _replace(target: nn.Module, source: nn.Module, new: Callable[[Tensor], Tensor]) -> None:
    """Put what `new` makes of each tensor of `source` in its place in `target`. Tied tensors stay
    tied, which `Module.to_empty` would undo."""
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
