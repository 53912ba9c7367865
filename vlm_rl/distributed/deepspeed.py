"""DeepSpeed's ZeRO through Lightning, also on a CPU, for updates of several micro-batches.

Stage 1 cuts the optimizer's state among the processes, 2 the gradients too, 3 the weights too; with
offload that state, and the weights of stage 3, wait in the memory of the CPU. Weights are float32;
with bf16-mixed autocast computes in bfloat16, and gradients are averaged in float32 all the same.
DeepSpeed averages gradients, clips and steps by itself. What it does not do, and FSDP2 does: leave
parameters without a gradient alone (a step without any image moves the vision tower by momentum and
weight decay), cut the reference, and go on with another number of processes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn


class ZeroStrategy(DeepSpeedStrategy):
    """Float32 weights, torch's AdamW; `half` computes in bfloat16. Raises ValueError where
    DeepSpeed is not installed."""

    def __init__(self, stage: int, *, offload: bool, half: bool) -> None:
        if find_spec("deepspeed") is None:
            raise ValueError(
                f"trainer.strategy=zero{stage}{'_offload' if offload else ''} needs DeepSpeed, "
                "which is not installed: pip install 'vlm_rl[deepspeed]', or take fsdp2"
            )
        cutting: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": 0}
        if offload:
            cutting["offload_optimizer"] = {"device": "cpu"}
        if offload and stage == 3:
            cutting["offload_param"] = {"device": "cpu"}
        super().__init__(
            config={
                "zero_optimization": cutting,
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

    def setup_environment(self) -> None:
        # not that of the Trainer's precision: DeepSpeed's own bf16 has no float32 weights
        self.precision_plugin = _Precision("32-true")
        # that of DeepSpeedStrategy refuses whatever is no CUDA device
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

    def before_micro_batch(self, *, last: bool) -> None:
        """Say that a forward begins. DeepSpeed hears of the first one only, which is that of the
        whole training step, and stage 3 then drops the gradients of all backwards but one."""
        if self.stage == 3:
            self.deepspeed_engine.optimizer.clear_backward_seen_flag()
        self.deepspeed_engine.set_gradient_accumulation_boundary(last)

    def step(self, optimizer: Any, limit: float | None, *, apply: bool) -> Tensor:
        """Clip and step where gradients are finite and `apply`; returns the norm before."""
        own = self.deepspeed_engine.optimizer
        if not apply:
            own.zero_grad()
            # what it does only when it steps or finds gradients that are not finite by itself
            own.reset_cpu_buffers()
            own.micro_step_id = 0 if self.stage == 3 else -1
            return torch.tensor(torch.inf)
        own.clip_grad = 0.0 if limit is None else limit
        optimizer.step()
        return torch.as_tensor(self.deepspeed_engine.get_global_grad_norm()).detach().cpu()


class _Precision(DeepSpeedPrecision):
    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Around the whole training step, for which autocast would keep a bfloat16 copy of every
        weight: of one that is cut the whole, and after an update that from before."""
        was = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            yield
        finally:
            torch.set_autocast_cache_enabled(was)

    def convert_input(self, data: Any) -> Any:
        return data  # prompts, whose pixels the policy takes as they are


def is_cut(parameter: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(parameter, "ds_id")


def own_share(parameter: Tensor) -> Tensor:
    """What this process holds of it."""
    share: Tensor = getattr(parameter, "ds_tensor", parameter)
    return share


@contextmanager
def gathered(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Parameters that stage 3 has cut are whole inside; every process must enter and leave."""
    cut = [parameter for parameter in parameters if is_cut(parameter)]
    if not cut:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(cut):
        yield


@contextmanager
def gathered_for_forwards(parameters: Iterable[Tensor]) -> Iterator[None]:
    """`gathered`, and a forward inside neither cuts again what it has used nor gathers by itself,
    so that processes may run unequal numbers of them. Without gradients."""
    cut: list[Any] = [parameter for parameter in parameters if is_cut(parameter)]
    with gathered(cut):
        if not cut:
            yield
            return
        modules = cut[0]._z3_optimizer.parameter_offload
        for hooks in (modules.forward_hooks, modules.backward_hooks):
            for hook in hooks:
                hook.remove()
            hooks.clear()
        try:
            yield
        finally:  # drops the recorded order of the modules too
            modules._register_deepspeed_module(modules.module)
