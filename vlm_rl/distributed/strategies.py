"""The one place that knows which strategy runs: how weights are spread over processes.

    auto, ddp       every process holds all weights; gradients are averaged
    fsdp2           weights, gradients and optimizer state are cut among them (`fully_shard`)
    fsdp2_offload   and wait in the memory of the CPU for their turn
    zero1 .. zero3, zero2_offload, zero3_offload
                    DeepSpeed's stages, see `vlm_rl.distributed.deepspeed`

Blocks of the vision tower, the tower, layers of the language model and the rest are gathered one
after the other. The rest has the embeddings and the head, which `Policy.forward` reads: it is the
root. Processes are on CPUs (gloo) or GPUs (nccl), of one machine or of many.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
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
from vlm_rl.distributed import fsdp2, lockstep
from vlm_rl.distributed.deepspeed import (
    ZeroStrategy,
    gathered,
    gathered_for_forwards,
    is_cut,
    own_share,
)
from vlm_rl.model.lora import save_adapter
from vlm_rl.model.policy import AdaptersOff, Policy, empty_model
from vlm_rl.model.weights import named_parameters, named_weights
from vlm_rl.records import Prompt

NAMES = (
    "auto",
    "ddp",
    "fsdp2",
    "fsdp2_offload",
    "zero1",
    "zero2",
    "zero3",
    "zero2_offload",
    "zero3_offload",
)


def build(name: Any, precision: Any = "32-true") -> Strategy | str:
    """The Trainer's strategy. Raises ValueError for one that the training step does not know."""
    if name not in NAMES:
        raise ValueError(f"trainer.strategy must be one of {', '.join(NAMES)}, got {name!r}")
    if name == "auto":
        return "auto"
    if name == "ddp":
        return DDPStrategy(gradient_as_bucket_view=True)
    kind, _, rest = name.partition("_")
    if kind == "fsdp2":
        return FSDP2Strategy(offload=rest == "offload")
    return ZeroStrategy(int(kind[-1]), offload=rest == "offload", half=precision == "bf16-mixed")


class FSDP2Strategy(ModelParallelStrategy):
    """Over all processes alike, with a checkpoint in one file, as one process writes it: such a
    run may go on with any number of processes and any strategy but DeepSpeed."""

    def __init__(self, *, offload: bool) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self._wants_offload = offload

    @property
    def offload(self) -> bool:
        """Whether weights wait on the CPU; where they are computed there too, nothing has to."""
        return self._wants_offload and self.root_device.type == "cuda"

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        if self.offload:  # gradients and norms are summed on the CPU too, which nccl can not
            self._process_group_backend = "cpu:gloo,cuda:nccl"
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Also that of one process, whose optimizer numbers the parameters that it trains by its
        groups; Lightning would take the numbers for those of all parameters of the model."""
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

    def shard(self, policy: Policy, reference: Policy | None) -> None:
        """Cut both, which are changed in place, part by part as the weights of the policy arrive
        from the first process; the reference becomes what the policy is."""
        how = self._how()
        parts = _parts(policy)
        twins = _parts(reference) if reference else [None] * len(parts)
        for part, twin in zip(parts, twins, strict=True):
            fsdp2.receive(part, self.root_device)
            if twin is not None:
                fsdp2.copy_to(twin, part)
                fully_shard(twin, **how)
            fully_shard(part, **how)

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


def _by_name(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, Any]:
    """A saved state of `optimizer` with parameters by their names in place of numbers."""
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
    """What is gathered at a time, each before the one that it is in."""
    tower: Any = policy.part("vision_tower")
    language: Any = policy.part("language_model")
    return [*tower.blocks, tower, *language.layers, policy]


def awaits_weights(strategy: Strategy) -> bool:
    """Whether this process is handed its share of the policy's weights by the first one, and so
    has none to load."""
    return isinstance(strategy, FSDP2Strategy) and not ranks.is_first()


def shard(
    strategy: Strategy, policy: Policy, *, with_reference: bool
) -> Policy | AdaptersOff | None:
    """Spread the weights of a policy as the strategy does, and make its reference; call once,
    before the optimizer is built. A strategy that wraps the whole module by itself does not change
    the policy here, and does not cut the reference."""
    if not isinstance(strategy, FSDP2Strategy):
        cuts = isinstance(strategy, ZeroStrategy) and strategy.stage == 3
        if isinstance(strategy, ZeroStrategy):
            strategy.exclude_frozen_parameters = policy.has_adapters
        reference = policy.reference(share=not cuts) if with_reference else None
        return reference.to(strategy.root_device) if isinstance(reference, Policy) else reference
    if with_reference and policy.has_adapters:
        strategy.shard(policy, None)
        return policy.reference()
    twin = policy.empty_copy() if with_reference else None
    strategy.shard(policy, twin)
    return twin


def begin(policy: Policy, smallest: Prompt) -> None:
    """Run the policy once: only then do its cut parts know which of them is the root, before that
    no part may run by itself."""
    if isinstance(policy, FSDPModule):
        with policy.evaluating():
            policy.logprobs(lockstep.nothing(smallest), temperature=1.0)


@contextmanager
def micro_batch(strategy: Strategy, *, last: bool) -> Iterator[None]:
    """Around forward and backward of a micro-batch: DDP averages gradients in the `last` one only.
    FSDP2 does in each, because an uncut gradient is as large as the whole model in float32."""
    if isinstance(strategy, ZeroStrategy):
        strategy.before_micro_batch(last=last)
        yield
    elif isinstance(strategy, DDPStrategy) and not last:
        with strategy.block_backward_sync():
            yield
    else:
        yield


def step(
    strategy: Strategy,
    optimizer: Any,
    parameters: Sequence[Tensor],
    *,
    limit: float | None,
    loss: Tensor,
) -> Tensor:
    """Scale gradients down to a global norm of `limit` and step, where gradients and `loss` are
    finite; returns the norm that they had."""
    if isinstance(strategy, ZeroStrategy):
        return strategy.step(optimizer, limit, apply=bool(loss.isfinite()))
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(trained, float("inf") if limit is None else limit)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    if bool(loss.isfinite() & norm.isfinite()):
        optimizer.step()
        # the Trainer's autocast spans all updates of a step, and would go on with its bfloat16
        # copies of the weights before this one
        torch.clear_autocast_cache()
    return norm


def frozen_checksum(policy: Policy) -> str:
    """SHA-256 of what this process holds of the parameters that are not trained."""
    return checksum(p for p in policy.parameters() if not p.requires_grad)


def checksum(parameters: Iterable[Tensor]) -> str:
    """SHA-256 of what this process holds of them."""
    digest = hashlib.sha256()
    for parameter in parameters:
        own = parameter.to_local() if isinstance(parameter, DTensor) else own_share(parameter)
        digest.update(own.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def whole(policy: Policy) -> Iterator[None]:
    """All weights gathered inside, so that processes may then run unequal numbers of forwards, of
    any part of the policy. Every process must enter and leave."""
    parts = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        with gathered_for_forwards(policy.parameters()):
            yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def save_pretrained(policy: Policy, folder: Path, *, merge_adapter: bool = False) -> None:
    """Write whole weights for `from_pretrained`, or the adapters alone of a policy with such,
    unless they are to be merged; call on every process, the first one writes.

    Of a policy that is cut, or merged, the first process has a second copy on the CPU meanwhile.
    """
    is_first = ranks.rank() == 0
    if policy.has_adapters and not merge_adapter:
        save_adapter(policy.model, folder, write=is_first)
        return
    is_spread = isinstance(policy, FSDPModule) or any(map(is_cut, policy.parameters()))
    if not is_spread and not policy.has_adapters:
        if is_first:
            policy.save(folder)
        return
    weights: dict[str, Tensor] = {}
    for name, tensor in whole_weights(policy):
        if is_first:
            weights[name] = tensor.cpu()
    if is_first:
        _plain_model(policy, weights).save_pretrained(folder)


def whole_weights(
    policy: Policy, *, merge_adapters: bool = True, only: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the transformers model by name, or `only` some, gathered one by one: every
    process must go through all of them. For adapters see `vlm_rl.model.weights.named_weights`."""
    if not any(map(is_cut, policy.parameters())):
        yield from named_weights(policy.model, merge_adapters=merge_adapters, only=only)
        return
    for name, parameter in named_parameters(policy.model):
        if only is None or name in only:
            yield name, _whole_copy(parameter)


def _whole_copy(parameter: Tensor) -> Tensor:
    with gathered([parameter]):
        return parameter.detach().clone()


def _plain_model(policy: Policy, weights: dict[str, Tensor]) -> Any:
    """A model of its own around `weights`: saved as one that was never cut, names included."""
    model = empty_model(policy.model.config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = policy.model.generation_config
    return model
