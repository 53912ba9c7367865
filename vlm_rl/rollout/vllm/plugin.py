"""The plugin that vLLM loads into each of its processes, by the entry point `vllm.general_plugins`.

It adds the receiving end of our weight stream, and a model loader that reads no checkpoint. With a
CPU build of torch, importing this package also makes torchvision importable.
"""

from functools import cache

NAME = "vlm_rl"
"""Name of both: `--load-format vlm_rl`, `--weight-transfer-config '{"backend": "vlm_rl"}'`."""


@cache  # vLLM may call it several times in one process
def register() -> None:
    """Register both with vLLM."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    from vllm.model_executor.model_loader import register_model_loader

    from vlm_rl.rollout.vllm.weight_receiver import EmptyLoader, WeightReceiver

    WeightTransferEngineFactory.register_engine(NAME, WeightReceiver)
    register_model_loader(NAME)(EmptyLoader)
