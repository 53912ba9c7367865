"""The receiving end of the weight stream, inside each vLLM worker.

A backend of vLLM's weight-transfer API (`WeightTransferEngine`, vLLM 0.32). vLLM's own backends
need GPUs and accept anything: a layer for which no weight arrives silently keeps its old values.
Here every name of the stream must have a place, and every weight of the model must arrive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from vlm_rl.rollout.faults import WEIGHT_STREAM
from vlm_rl.rollout.vllm.weight_checks import check_complete, check_name
from vlm_rl.rollout.vllm.weight_stream import WeightSink, unflatten


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Where the trainer waits for its workers, and what it asks them for; empty if both are one
    process."""

    host: str = ""
    port: int = 0
    secret: str = field(default="", repr=False)
    timeout_s: float = 600.0


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One chunk: the `tensors` themselves within one process, else what the stream will bring.

    `one_by_one` loads each name by itself, to find those that the model silently ignores. `partial`
    says that the update leaves other weights unchanged on purpose.
    """

    names: list[str]
    dtypes: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    tensors: list[Tensor] | None = None
    one_by_one: bool = False
    partial: bool = False


class WeightReceiver(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads chunks in checkpoint format; raises ValueError for a name that does not fit."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._sink: WeightSink | None = None
        self._names: set[str] = set()
        self._loaded: set[str] = set()
        self._partial = False
        self._kernels: list[tuple[Any, Any]] = []

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        self.shutdown()
        if init_info.host:
            self._sink = WeightSink(
                init_info.host, init_info.port, init_info.secret, init_info.timeout_s
            )

    def start_weight_update(self) -> None:
        self._names, self._loaded, self._partial = set(), set(), False
        self._kernels = forget_packed_experts(self.model)
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        tensors = update_info.tensors
        if tensors is None:
            assert self._sink is not None, "init_weight_transfer_engine comes first"
            tensors = unflatten(self._sink.receive(), update_info.dtypes, update_info.shapes)
        named = list(zip(update_info.names, tensors, strict=True))
        self._partial |= update_info.partial
        for part in ([pair] for pair in named) if update_info.one_by_one else [named]:
            loaded = self._load(part)
            check_name(part[0][0], loaded)
            self._names.update(name for name, _ in part)
            self._loaded |= loaded

    def _load(self, named: Sequence[tuple[str, Tensor]]) -> set[str]:
        """Load weights and return the engine's own names of them."""
        model: Any = self.model
        try:
            loaded: set[str] = model.load_weights(iter(named))
        except torch.OutOfMemoryError:
            raise  # says nothing about the weights
        except (ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
            names = named[0][0] if len(named) == 1 else f"one of {len(named)} from {named[0][0]} on"
            raise ValueError(f"{WEIGHT_STREAM}{names} does not fit: {error}") from error
        return loaded

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        for method, kernel in self._kernels:
            method.moe_kernel = method.moe_kernel or kernel  # no weights of this layer came
        if not self._partial:
            tied = self.model_config.hf_text_config.tie_word_embeddings
            check_complete(self.model, sent=self._names, loaded=self._loaded, tied=tied)

    def shutdown(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._sink = None


def forget_packed_experts(model: torch.nn.Module) -> list[tuple[Any, Any]]:
    """Let each mixture's experts be packed again when their next weights have come.

    On a CPU vLLM computes experts with packed weights, but packs only if a layer has no kernel yet:
    an update would put unpacked weights in the place of packed ones, and they would be read as
    packed. Returns (quantisation method, kernel) of each layer, to be put back where no weights
    come.
    """
    methods = (getattr(module, "quant_method", None) for module in model.modules())
    found = [
        (method, method.moe_kernel)
        for method in methods
        if isinstance(method, UnquantizedFusedMoEMethod)
        and method.unquantized_backend is UnquantizedMoeBackend.CPU
    ]
    for method, _ in found:
        method.moe_kernel = None
    return found


class EmptyLoader(BaseModelLoader):
    """Reads nothing: all weights arrive by the stream. Parameters are zero until then.

    vLLM's own `load_format="dummy"` gives random values to buffers too, such as the rotary
    frequencies of a vision tower. No stream of weights would correct those.
    """

    def download_model(self, model_config: Any) -> None:
        """Do nothing: there is no checkpoint."""

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
