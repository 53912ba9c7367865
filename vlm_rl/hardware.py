"""How much memory a run needs: `python -m vlm_rl.hardware --config X.yaml [--dotted.key value]`.

Arguments are those of vlm_rl.fit. Only the model's config.json is read. `--table` alone prints the
table of docs/gpus_and_memory.md.
"""

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.fit import OURS, build_parser
from vlm_rl.memory.estimate import NODE_PHASES, PHASES, USABLE, MemoryEstimate, Setup, estimate
from vlm_rl.memory.model_shape import PUBLISHED, ModelShape, count, published_config
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.rollout import TransformersEngine
from vlm_rl.rollout.vllm.engine import VLLMEngine

GB = 1e9
GPU_GB = (24, 40, 80, 141)
NUM_GPUS = (1, 2, 4, 8, 16)
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, offloaded": {},
    "frozen tower": {"freeze": ("vision_tower",)},
    "LoRA": {"lora": LoraSettings()},
}


def main(argv: Sequence[str]) -> None:
    """Print the published table, or what the run of a configuration needs."""
    if argv == ["--table"]:
        print(published())
        return
    with one_line_errors("vlm_rl.hardware"):
        parser = build_parser()
        config = parse(parser, argv, {f"trainer.{name}": key for name, key in OURS.items()})
        parts = instantiate(parser, config)
        setup, checkpoint = read(config, parts), check_checkpoint(config.policy.path)
        model = ModelShape(checkpoint, freeze=config.policy.freeze, lora=parts.policy.lora)
    trained = f"{count(model.weights):,} parameters, {count(model.trained):,} of them trained"
    print(f"{trained}; GPUs: {setup.gpus}, nodes: {setup.nodes}, strategy: {setup.strategy}.\n")
    print(items(estimate(model, setup)))


def read(config: Namespace, parts: Namespace) -> Setup:
    """Return the memory's side of a parsed configuration and its instantiated parts.

    What an engine would decide on this machine is read from its arguments instead. Raises
    ValueError if the number of GPUs is left to the machine.
    """
    devices, nodes, engine = config.trainer.devices, config.trainer.num_nodes, parts.engine
    each = str(len(devices) if isinstance(devices, list) else devices)
    if not each.isdigit() or each == "0":
        raise ValueError(
            f"trainer.devices={devices} is decided by the machine; say how many GPUs, as in "
            "--trainer.devices 8"
        )
    arguments: dict[str, Any] = vars(config.engine.init_args)
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
        if (cache_gib := arguments.get("kv_cache_gib")) is None:
            setup.share = engine.gpu_memory_utilization
        else:
            setup.cache_bytes = int(cache_gib * 2**30)
    return setup


def items(needs: MemoryEstimate) -> str:
    """Return a table of every item and sum, and of what a GPU of each size has to hold.

    There vLLM takes its share. Numbers are GB of 1e9 bytes.
    """
    rows = [["GB", *PHASES, *(f"CPU, {phase}" for phase in NODE_PHASES)]]
    for name in dict.fromkeys(name for held in needs.items.values() for name in held):
        held = (needs.items[phase].get(name) for phase in needs.items)
        rows.append([name, *("" if size is None else f"{size / GB:.2f}" for size in held)])
    rows.append(["sum", *(f"{needs.needed(phase) / GB:.1f}" for phase in needs.items)])
    for size in GPU_GB:
        verdict = "fits" if needs.fits(size * GB) else "does not fit"
        needed = (f"{needs.needed(phase, size * GB) / GB:.1f}" for phase in PHASES)
        rows.append([f"{size} GB, {USABLE * size:.1f} usable: {verdict}", *needed, "", ""])
    return _markdown(rows)


def published() -> str:
    """Return the table in the docs, for the sizes of Qwen2.5-VL.

    GB in training on each GPU: bold if 80 GB are enough with vLLM in it, which has 8 GB for keys
    and values, plain if they are with vLLM elsewhere, in brackets if they are not.
    """
    rows = [["", "", *map(str, NUM_GPUS)]]
    for size in PUBLISHED:
        for method, arguments in METHODS.items():
            model = ModelShape(published_config(size), **arguments)
            offload = "offloaded" in method
            rows.append([size, method, *(_cell(model, number, offload) for number in NUM_GPUS)])
    return _markdown(rows)


def _cell(model: ModelShape, gpus: int, offload: bool) -> str:
    strategy = "fsdp2_offload" if offload else "fsdp2" if gpus > 1 else "auto"
    alone = estimate(model, Setup(gpus, strategy=strategy, engine="elsewhere"))
    shown = f"{max(map(alone.needed, PHASES)) / GB:.0f}"
    if estimate(model, Setup(gpus, strategy=strategy, cache_bytes=int(8 * GB))).fits(80 * GB):
        return f"**{shown}**"
    return shown if alone.fits(80 * GB) else f"({shown})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its columns aligned; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = (" | ".join(map(str.ljust, row, widths)) for row in ruled)
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
