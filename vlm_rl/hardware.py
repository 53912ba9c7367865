"""How much memory a run needs: `python -m vlm_rl.hardware --config X.yaml [--dotted.key value]`.

Arguments are those of vlm_rl.fit. Only the model's config.json is read.
`python -m vlm_rl.hardware --table` prints the table of docs/gpus_and_memory.md, for the published
sizes of Qwen2.5-VL.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Column, Table

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.fit import OURS, build_parser
from vlm_rl.memory.estimate import (
    NODE_PHASES,
    PHASES,
    USABLE,
    Item,
    MemoryEstimate,
    Setup,
    estimate,
    total,
)
from vlm_rl.memory.model_shape import PUBLISHED, ModelShape, count, published_config
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.rollout import TransformersEngine
from vlm_rl.rollout.vllm.engine import VLLMEngine

GPU_GB = (24, 40, 80, 141)
GB = 1e9
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, offloaded": {},
    "frozen tower": {"freeze": ("vision_tower",)},
    "LoRA": {"lora": LoraSettings()},
}
NUM_GPUS = (1, 2, 4, 8, 16)
CACHE_GB = 8
"""What the table gives vLLM for keys and values."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or what the run of a configuration needs."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--table"]:
        print("\n".join(markdown()))
        return
    with one_line_errors("vlm_rl.hardware"):
        parser = build_parser()
        config = parse(parser, argv, {f"trainer.{name}": key for name, key in OURS.items()})
        parts = instantiate(parser, config)
        setup, checkpoint = read(config, parts), check_checkpoint(config.policy.path)
        model = ModelShape(checkpoint, freeze=config.policy.freeze, lora=parts.policy.lora)
    show(model, estimate(model, setup), Console(width=None if sys.stdout.isatty() else 110))


def read(config: Namespace, parts: Namespace) -> Setup:
    """Return the memory's side of a parsed configuration and its instantiated parts.

    Raises ValueError if the number of GPUs is left to the machine.
    """
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    each = len(devices) if isinstance(devices, list) else str(devices)
    if isinstance(each, str) and (not each.isdigit() or each == "0"):
        raise ValueError(
            f"trainer.devices={devices} is decided by the machine; say how many GPUs, as in "
            "--trainer.devices 8"
        )
    return Setup(
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
        **_engine(parts.engine, config.engine.init_args),
    )


def show(model: ModelShape, needs: MemoryEstimate, console: Console) -> None:
    """Print every item and sum, in GB of 1e9 bytes."""
    setup = needs.setup
    console.print(
        f"{count(model.weights):,} parameters, {count(model.trained):,} of them trained; "
        f"GPUs: {setup.gpus}, nodes: {setup.nodes}, strategy: {setup.strategy}. GB of 1e9 bytes."
    )
    console.print(_table("each GPU", [*needs.trainer, *needs.engine], PHASES))
    console.print(_table("CPU of the first node", needs.cpu, NODE_PHASES))
    for size in GPU_GB:
        console.print(_verdict(needs, size))


def markdown() -> Iterator[str]:
    """Yield the lines of the table in the docs.

    GB in training on each GPU: bold if 80 GB are enough with vLLM in it, plain if they are with
    vLLM elsewhere, in brackets if they are not.
    """
    yield f"| | | {' | '.join(str(number) for number in NUM_GPUS)} |"
    yield f"| --- | --- |{' --- |' * len(NUM_GPUS)}"
    for size in PUBLISHED:
        for method, arguments in METHODS.items():
            model = ModelShape(published_config(size), **arguments)
            strategy = "fsdp2_offload" if "offloaded" in method else "fsdp2"
            cells = (_cell(model, number, strategy) for number in NUM_GPUS)
            yield f"| {size} | {method} | {' | '.join(cells)} |"


def _cell(model: ModelShape, gpus: int, strategy: str) -> str:
    strategy = "auto" if gpus == 1 and strategy == "fsdp2" else strategy
    beside = estimate(model, Setup(gpus, strategy=strategy, cache_bytes=int(CACHE_GB * GB)))
    alone = estimate(model, Setup(gpus, strategy=strategy, engine="elsewhere"))
    shown = f"{max(map(alone.needed, PHASES)) / GB:.0f}"
    if beside.fits(80 * GB):
        return f"**{shown}**"
    return shown if alone.fits(80 * GB) else f"({shown})"


def _engine(engine: Any, arguments: Namespace) -> dict[str, Any]:
    """From the arguments: what is left open in them an engine would decide on this machine."""
    if isinstance(engine, TransformersEngine):
        return {"engine": "transformers", "rows": engine.max_rows}
    if not isinstance(engine, VLLMEngine):
        return {"engine": "elsewhere", "chunk_bytes": arguments.get("chunk_mib", 512) << 20}
    cache_gib = arguments.get("kv_cache_gib")
    return {
        "share": engine.gpu_memory_utilization if cache_gib is None else None,
        "cache_bytes": int((cache_gib or 0) * 2**30),
        "sleep": engine.sleep,
        "tensor_parallel": engine.tensor_parallel_size,
        "precision": 4 if arguments.get("precision") == "float32" else 2,
        "chunk_bytes": engine.chunk_bytes,
    }


def _table(title: str, items: Iterable[Item], phases: Sequence[str]) -> Table:
    columns = (Column(phase, justify="right") for phase in phases)
    table = Table("", *columns, "", title=title, title_justify="left")
    for item in items:
        shown = f"{item.nbytes / GB:.2f}"
        table.add_row(item.name, *(shown if p in item.phases else "" for p in phases), item.note)
    table.add_section()
    table.add_row("sum", *(f"{total(items, phase) / GB:.1f}" for phase in phases), "")
    return table


def _verdict(needs: MemoryEstimate, size: int) -> str:
    phase = max(PHASES, key=lambda phase: needs.needed(phase, size * GB))
    needed = needs.needed(phase, size * GB) / GB
    line = f"{size:4} GB: {'fits' if needs.fits(size * GB) else 'does not fit'}, {needed:.1f}"
    line += f" in {phase}, of {USABLE * size:.1f} that may be used"
    if needs.setup.share is None:
        return line
    share = needs.setup.share * size * GB
    if share < total(needs.engine, "rollout"):
        return f"{line}; vLLM's {share / GB:.1f} are too few"
    return f"{line}; vLLM has {share / GB:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
