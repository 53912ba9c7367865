"""A model of vLLM in this process with its own loaders, but no engine around it: it computes no
tokens, so every family can be loaded, also where a kernel is missing."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.vllm_setup import SAMPLING, in_process
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.model.saving import save_model
from vlm_rl.rollout import VLLMEngine
from vlm_rl.rollout.vllm import environment
from vlm_rl.rollout.vllm.weight_sender import WeightSender

ROWS = 5


class Loaded:
    """One worker of vLLM, with the model that it has loaded from a folder with weights."""

    def __init__(self, engine: VLLMEngine) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | environment.settings()
        arguments = engine.arguments() | {"load_format": "auto"}
        self.config: Any = EngineArgs(**arguments).create_engine_config()
        self.executor = UniProcExecutor(self.config)

    @property
    def model(self) -> Any:
        return self.executor.driver_worker.worker.model_runner.model

    def init_weight_transfer_engine(self, info: Mapping[str, Any]) -> None:
        self.executor.collective_rpc("init_weight_transfer_engine", args=(dict(info),))

    def start_weight_update(self) -> None:
        self.executor.collective_rpc("start_weight_update")

    def update_weights_chunk(self, info: Mapping[str, Any]) -> None:
        self.executor.collective_rpc("update_weights", args=(dict(info),))

    def finish_weight_update(self) -> None:
        self.executor.collective_rpc("finish_weight_update")

    def sender(self, dtype: torch.dtype) -> WeightSender:
        how: dict[str, Any] = {"num_workers": 1, "host": "", "timeout_s": 60.0}
        return WeightSender(self, dtype=dtype, chunk_bytes=1 << 20, **how)

    def num_elements(self) -> int:
        """Count the elements of all weights as vLLM creates them, before they are packed."""
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        created = [
            weight
            for module in self.model.modules()
            for weight in get_layerwise_info(module).restore_metadata[0].values()
        ]
        # vLLM keeps no record of biases, since it never packs them
        biases = [w for name, w in self.model.named_parameters() if name.endswith(".bias")]
        return sum(weight.numel() for weight in [*created, *biases])

    def computed(self) -> dict[str, Tensor]:
        """Return all weights, and what every matrix makes of noise: a CPU keeps a packed copy of
        most, in no tensor of the model."""
        found = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        for name, module in self.model.named_modules():
            if hasattr(module, "cpu_linear"):
                found[f"{name}(x)"] = self.product(module)
        return found

    def product(self, matrix: Any) -> Tensor:
        """Return what a matrix, with its adapter if it has one, makes of `noise`, [5, out]."""
        inputs = noise(matrix, self.config.model_config.dtype)
        if hasattr(matrix, "embedding_dim"):  # as the head
            return matrix.quant_method.apply(matrix, inputs, None)
        made = matrix(inputs)
        return made[0] if isinstance(made, tuple) else made

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self.executor.shutdown()
        cleanup_dist_env_and_memory()  # a dense model makes other groups than a mixture


def noise(module: Any, dtype: torch.dtype) -> Tensor:
    """Draw the rows that `product` gives to a matrix of vLLM, [5, in]."""
    size = getattr(module, "embedding_dim", None) or module.input_size
    return torch.randn(ROWS, size, generator=torch.Generator().manual_seed(0)).to(dtype)


@contextmanager
def loaded(policy: Policy, checkpoint: Path, folder: Path, precision: Any) -> Iterator[Loaded]:
    """Write the policy into `folder` as published checkpoints are, and let vLLM load that."""
    engine = in_process(precision=precision)
    encoder = PromptEncoder(str(checkpoint), max_prompt_tokens=64)
    engine.prepare(folder, policy.model.config, encoder, SAMPLING)
    save_model(policy.model, folder, source=torch.float32)
    with pytest.MonkeyPatch.context() as patch:  # vLLM looks at an architecture in a child
        patch.setenv("PYTHONPATH", environment.python_path(folder))
        worker = Loaded(engine)
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def adapters_of(worker: Loaded, folder: Path, rank: int) -> Iterator[dict[str, Any]]:
    """Load and activate an adapter with vLLM's own manager; yield the layers that may have one.

    Experts are left as they are: beside adapters they would need Triton.
    """
    from vllm.config import LoRAConfig, set_current_vllm_config
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.request import LoRARequest
    from vllm.lora.utils import get_supported_lora_modules
    from vllm.lora.worker_manager import WorkerLoRAManager

    targets = [each for each in get_supported_lora_modules(worker.model) if each != "experts"]
    worker.config.lora_config = LoRAConfig(max_lora_rank=rank, target_modules=targets)
    worker.config.lora_config.verify_with_model_config(worker.config.model_config)
    with set_current_vllm_config(worker.config):
        manager = WorkerLoRAManager(worker.config, torch.device("cpu"), {})
        manager.create_lora_manager(worker.model, worker.config)
        rows = LoRAMapping(index_mapping=(1,) * ROWS, prompt_mapping=(1,), is_prefill=True)
        manager.set_active_adapters({LoRARequest("policy", 1, str(folder))}, rows)
        yield manager._adapter_manager.modules
