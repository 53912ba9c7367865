"""DeepSpeed's ZeRO through Lightning, also on a CPU, for updates of several micro-batches.

Stage 1 shards the optimizer's state among the ranks, 2 the gradients too, 3 the weights too; with
offload that state, and the weights of stage 3, wait in CPU memory. Weights are float32; with
bf16-mixed autocast computes in bfloat16, and gradients are averaged in float32 all the same.
DeepSpeed averages gradients, clips and steps by itself. What it does not do, and FSDP2 does: leave
parameters without a gradient alone (a step without any image moves the vision tower by momentum and
weight decay), shard the reference, and resume with another number of ranks.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn

from vlm_rl.distributed.rank_strategy import RankStrategy
from vlm_rl.model import safe_archives
from vlm_rl.model.policy import Policy
from vlm_rl.model.reference import Reference, reference_of
from vlm_rl.model.shards import Shards
from vlm_rl.model.weights import named_parameters


class ZeroStrategy(RankStrategy, DeepSpeedStrategy):
    """Float32 weights, torch's AdamW; `half` computes in bfloat16. Raises ValueError if DeepSpeed
    is not installed."""

    def __init__(self, half: bool, *, stage: int, offload: bool) -> None:
        self.name = f"zero{stage}{'_offload' if offload else ''}"
        if find_spec("deepspeed") is None:
            raise ValueError(
                f"trainer.strategy={self.name} needs DeepSpeed, which is not installed; run "
                "pip install 'vlm_rl[deepspeed]', or set trainer.strategy=fsdp2"
            )
        sharding: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": 0}
        if offload:
            sharding["offload_optimizer"] = {"device": "cpu"}
        if offload and stage == 3:
            sharding["offload_param"] = {"device": "cpu"}
        super().__init__(
            config={
                "zero_optimization": sharding,
                "train_micro_batch_size_per_gpu": 1,  # of its log only: batches are ours
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "torch_autocast": {
                    "enabled": half,
                    "dtype": "bfloat16",
                    # those named here have their gradients averaged in bfloat16
                    "lower_precision_safe_modules": [],
                },
            }
        )
        self.stage = stage
        self.gathers_within_step = self.name if stage == 3 else None

    def check_adapters(self) -> None:
        if self.stage == 3:
            raise ValueError(
                f"trainer.strategy={self.name} cannot train policy.lora, because it would gather "
                "base and adapters apart; set fsdp2, which shards both, or zero2"
            )

    def check_recurrences(self) -> None:
        if self.stage == 3:
            raise ValueError(
                f"trainer.strategy={self.name} cannot train a model with a recurrence: its layers "
                "are computed piece by piece, and ranks would gather weights unequally often; set "
                "fsdp2, which shards weights too, or zero2"
            )

    def spread(self, policy: Policy, *, with_reference: bool) -> Reference | None:
        """Make the reference, which stays whole; DeepSpeed shards the policy itself later."""
        policy.shards = ZeroShards(are_whole=self.stage < 3)
        self.exclude_frozen_parameters = policy.has_adapters
        reference = reference_of(policy, share=self.stage < 3) if with_reference else None
        return reference and reference.to(self.root_device)

    def setup_environment(self) -> None:
        # not that of the Trainer's precision: DeepSpeed's own bf16 has no float32 weights
        self.precision_plugin = _Precision("32-true")
        # that of DeepSpeedStrategy refuses whatever is not a CUDA device
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        import deepspeed

        if self.root_device.type == "cpu":
            # sums through shared memory: what gloo does as well, for a minute of compiling
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        import deepspeed

        engine, own_optimizer, _, _ = deepspeed.initialize(
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, own_optimizer

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Say that a forward begins. DeepSpeed hears of the first one only, which is that of the
        whole training step, and stage 3 then drops the gradients of all backwards but one."""
        if self.stage == 3:
            self.deepspeed_engine.optimizer.clear_backward_seen_flag()
        self.deepspeed_engine.set_gradient_accumulation_boundary(last)
        yield

    def apply_gradients(
        self, optimizer: Any, parameters: Sequence[Tensor], *, limit: float | None, loss: Tensor
    ) -> Tensor:
        own = self.deepspeed_engine.optimizer
        if not bool(loss.isfinite()):
            own.zero_grad()
            # what it does only when it steps or meets gradients that are not finite by itself
            own.reset_cpu_buffers()
            own.micro_step_id = 0 if self.stage == 3 else -1
            return torch.tensor(torch.inf)
        own.clip_grad = 0.0 if limit is None else limit
        optimizer.step()
        return torch.as_tensor(self.deepspeed_engine.get_global_grad_norm()).detach().cpu()


STRATEGIES: Mapping[str, Callable[[bool], ZeroStrategy]] = {
    "zero1": partial(ZeroStrategy, stage=1, offload=False),
    "zero2": partial(ZeroStrategy, stage=2, offload=False),
    "zero3": partial(ZeroStrategy, stage=3, offload=False),
    "zero2_offload": partial(ZeroStrategy, stage=2, offload=True),
    "zero3_offload": partial(ZeroStrategy, stage=3, offload=True),
}


def checkpoint_files(checkpoint: Path) -> list[Path]:
    """List the files of a checkpoint folder: one of each rank, and one of the model or its
    shards."""
    return sorted(checkpoint.rglob("*.pt"))


def saved_classes() -> tuple[type, ...]:
    """Return the classes of its own that DeepSpeed saves beside tensors and plain values."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return LossScaler, ZeroStageEnum, fragment_address


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Return what every rank has written alike to a checkpoint folder, on the CPU.

    `state_dict` has the weights, unless stage 3 has sharded them. Raises FileNotFoundError.
    """
    file = min(checkpoint.glob("*/*_model_states.pt"), default=checkpoint / "no model_states")
    saved = safe_archives.load(file)
    if not file.name.startswith("zero_"):  # stage 3 names its shards so
        saved["state_dict"] = saved["module"]
    return saved


class _Precision(DeepSpeedPrecision):
    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Enclose the whole training step, for which autocast would keep a bfloat16 copy of every
        weight: the whole of a sharded one, and after an update that from before."""
        was = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            yield
        finally:
            torch.set_autocast_cache_enabled(was)

    def convert_input(self, data: Any) -> Any:
        return data  # prompts, whose pixels the policy takes as they are


class ZeroShards(Shards):
    """Stage 3 empties parameters and keeps this rank's part of each as `ds_tensor`, from the first
    `setup` on; the other stages leave them whole."""

    def __init__(self, *, are_whole: bool) -> None:
        self.are_whole = are_whole

    def own(self, parameter: Tensor) -> Tensor:
        share: Tensor = getattr(parameter, "ds_tensor", parameter)
        return share

    def weights(
        self, model: nn.Module, *, merge_adapters: bool, only: Collection[str] | None
    ) -> Iterator[tuple[str, Tensor]]:
        if self.are_whole:
            yield from super().weights(model, merge_adapters=merge_adapters, only=only)
            return
        for name, parameter in named_parameters(model):
            if only is None or name in only:
                yield name, _whole_copy(parameter)  # held by no variable while the next one comes

    @contextmanager
    def gathered(self, policy: nn.Module) -> Iterator[None]:
        """Gather all parameters. A forward inside neither shards again what it has used nor gathers
        by itself, so that ranks may run unequal numbers of them. Without gradients."""
        sharded: list[Any] = [p for p in policy.parameters() if hasattr(p, "ds_id")]
        if not sharded:
            yield
            return
        with _gathered(sharded):
            modules = sharded[0]._z3_optimizer.parameter_offload
            for hooks in (modules.forward_hooks, modules.backward_hooks):
                for hook in hooks:
                    hook.remove()
                hooks.clear()
            try:
                yield
            finally:  # drops the recorded order of the modules too
                modules._register_deepspeed_module(modules.module)


def _whole_copy(parameter: Tensor) -> Tensor:
    with _gathered([parameter]):
        return parameter.detach().clone()


@contextmanager
def _gathered(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Make sharded parameters whole inside; every rank must enter and leave."""
    import deepspeed

    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(sharded):
        yield
