"""The memory's side of a configuration: what `vlm_rl.memory` needs to know of a run."""

from jsonargparse import Namespace

from vlm_rl.memory.estimate import Setup
from vlm_rl.rollout import TransformersEngine
from vlm_rl.rollout.vllm.engine import VLLMEngine


def setup_of(config: Namespace, parts: Namespace) -> Setup:
    """Return the memory's side of a parsed configuration and its parts; what an engine would decide
    on this machine is read from its arguments. Raises ValueError for devices left to the machine.
    """
    devices, nodes, engine = config.trainer.devices, config.trainer.num_nodes, parts.engine
    each = str(len(devices) if isinstance(devices, list) else devices)
    if not each.isdigit() or each == "0":
        raise ValueError(f"trainer.devices={devices} is left to the machine; give a number")
    arguments = vars(config.engine.init_args)
    setup = Setup(
        gpus=int(each) * nodes,
        nodes=nodes,
        strategy=config.trainer.strategy,
        half=config.trainer.precision == "bf16-mixed",
        with_reference=parts.objective.needs_reference or parts.kl_in_reward is not None,
        checkpointing=config.policy.gradient_checkpointing,
        micro_batch_tokens=parts.updates.micro_batch_tokens,
        max_prompt_tokens=config.prompt.max_prompt_tokens,
        max_completion_tokens=parts.sampling.max_completion_tokens,
        group_size=config.group_size,
        engine="elsewhere",
        chunk_bytes=arguments.get("chunk_mib", 512) << 20,
    )
    if isinstance(engine, TransformersEngine):
        setup.engine, setup.rows = "transformers", engine.max_rows
    if isinstance(engine, VLLMEngine):
        setup.engine, setup.sleep = "vllm", engine.sleep
        setup.tensor_parallel = engine.tensor_parallel_size
        setup.precision = 4 if arguments.get("precision") == "float32" else 2
        cache_gib = arguments.get("kv_cache_gib")
        setup.share = engine.gpu_memory_utilization if cache_gib is None else None
        setup.cache_bytes = int((cache_gib or 0) * 2**30)
    return setup
