"""How much memory a run needs: `python -m vlm_rl.hardware --config X.yaml [--dotted.key value]`.

Arguments are those of vlm_rl.fit. Only the model's config.json is read.
"""

from collections.abc import Sequence

import pandas as pd
from jsonargparse import Namespace

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.fit import OURS, build_parser
from vlm_rl.memory.estimate import NODE_PHASES, PHASES, USABLE, MemoryEstimate, Setup, estimate
from vlm_rl.memory.model_shape import ModelShape, count
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.rollout import TransformersEngine
from vlm_rl.rollout.vllm.engine import VLLMEngine
from vlm_rl.show.screen import say_all

GB = 1e9
GPU_GB = (24, 40, 80, 141)


def main(argv: Sequence[str] | None = None) -> None:
    """Print what the run of a configuration needs."""
    with one_line_errors("vlm_rl.hardware"):
        parser = build_parser()
        parser.usage, parser.description = "vlm-rl hardware [--KEY VALUE ...]", __doc__
        config = parse(parser, argv, {f"trainer.{name}": key for name, key in OURS.items()})
        parts = instantiate(parser, config)
        setup, checkpoint = read(config, parts), check_checkpoint(config.policy.path)
        model = ModelShape(checkpoint, freeze=config.policy.freeze, lora=parts.policy.lora)
    trained = f"{count(model.weights):,} parameters, {count(model.trained):,} of them trained"
    say_all(f"{trained}; GPUs: {setup.gpus}, nodes: {setup.nodes}, strategy: {setup.strategy}.\n")
    say_all(items(estimate(model, setup)))


def read(config: Namespace, parts: Namespace) -> Setup:
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


def items(needs: MemoryEstimate) -> str:
    """Return a table in GB of 1e9 bytes: every item, their sum, and what a GPU of each size has to
    hold, where vLLM takes its share."""
    frame = pd.DataFrame(needs.items) / GB
    frame.loc["sum"] = frame.sum()
    for size in GPU_GB:
        verdict = "fits" if needs.fits(size * GB) else "does not fit"
        row = f"{size} GB, {USABLE * size:.1f} usable: {verdict}"
        frame.loc[row] = {phase: needs.needed(phase, size * GB) / GB for phase in PHASES}
    frame.columns = [*PHASES, *(f"CPU, {phase}" for phase in NODE_PHASES)]
    return str(frame.to_string(float_format="{:.2f}".format, na_rep=""))


if __name__ == "__main__":
    main()
