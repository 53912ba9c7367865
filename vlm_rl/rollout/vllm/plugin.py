"""What vLLM loads into each of its processes, by the entry point `vllm.general_plugins`.

It adds the receiving end of our weight stream, and a model loader that reads no checkpoint. Where
torch is a CPU build, importing this package also makes torchvision importable.
"""

from functools import cache

NAME = "vlm_rl"
"""Of both: `--load-format vlm_rl`, `--weight-transfer-config '{"backend": "vlm_rl"}'`."""


@cache  # vLLM may call it several times in one process
def register() -> None:
    """Make both known to vLLM."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    from vllm.model_executor.model_loader import register_model_loader

    from vlm_rl.rollout.vllm.weight_receiver import EmptyLoader, WeightReceiver

    WeightTransferEngineFactory.register_engine(NAME, WeightReceiver)
    register_model_loader(NAME)(EmptyLoader)
