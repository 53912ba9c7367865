"""How much memory a run needs: `python -m vlm_rl.hardware --config X.yaml [--dotted.key value]`.

Arguments are those of vlm_rl.fit. The model's config.json is all that is read of it.
`python -m vlm_rl.hardware --table` prints README's table for the published sizes of Qwen2.5-VL.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.fit import OURS, build_parser
from vlm_rl.memory.estimate import (
    NODE_PHASES,
    PHASES,
    USABLE,
    VLLM,
    Elsewhere,
    Estimate,
    Item,
    Run,
    Transformers,
    estimate,
)
from vlm_rl.memory.model_shape import Anatomy, count, dissect
from vlm_rl.memory.published import QWEN2_5_VL
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.rollout import TransformersEngine
from vlm_rl.rollout.vllm.engine import VLLMEngine

GPU_GB = (24, 40, 80, 141)
GB = 1e9

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
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
        anatomy, run = read(config, instantiate(parser, config))
        found = estimate(anatomy, run)
    show(anatomy, run, found, Console(width=None if sys.stdout.isatty() else 110))


def read(config: Namespace, parts: Namespace) -> tuple[Anatomy, Run]:
    """The model and the memory's side of a parsed configuration and its instantiated parts.

    Raises ValueError where the model's config.json can not be read, and where the number of GPUs is
    left to the machine.
    """
    each, nodes = _num_devices(config.trainer.devices), config.trainer.num_nodes
    run = Run(
        gpus=each * nodes,
        nodes=nodes,
        strategy=config.trainer.strategy,
        half=config.trainer.precision == "bf16-mixed",
        with_reference=parts.objective.needs_reference or parts.kl_in_reward is not None,
        gradient_checkpointing=config.policy.gradient_checkpointing,
        micro_batch_tokens=parts.updates.micro_batch_tokens,
        max_prompt_tokens=config.prompt.max_prompt_tokens,
        max_completion_tokens=parts.sampling.max_completion_tokens,
        group_size=config.group_size,
        engine=_engine(parts.engine, config.engine.init_args),
    )
    model = check_checkpoint(config.policy.path)
    return dissect(model, freeze=config.policy.freeze, lora=parts.policy.lora), run


def show(anatomy: Anatomy, run: Run, found: Estimate, console: Console) -> None:
    """Print every item and sum, in GB of 1e9 bytes."""
    console.print(
        f"{count(anatomy.weights):,} parameters, {count(anatomy.trained):,} of them trained; "
        f"GPUs: {run.gpus}, nodes: {run.nodes}, strategy: {run.strategy}. GB of 1e9 bytes."
    )
    console.print(_items("each GPU", found.gpu, PHASES, [found.needed(p) for p in PHASES]))
    console.print(_items("CPU of the first node", found.cpu, NODE_PHASES, found.node))
    for size in GPU_GB:
        console.print(_verdict(run, found, size))


def markdown() -> Iterator[str]:
    """The lines of README's table: GB in training on each GPU; bold where 80 GB are enough with
    vLLM in it, plain where they are with vLLM elsewhere, in brackets where they are not."""
    yield f"| | | {' | '.join(str(number) for number in NUM_GPUS)} |"
    yield f"| --- | --- |{' --- |' * len(NUM_GPUS)}"
    for name, size in QWEN2_5_VL.items():
        for method, how in METHODS.items():
            anatomy = dissect(size.config(), **how)
            for strategy in ("fsdp2", "fsdp2_offload"):
                offloaded = ", offloaded" * (strategy == "fsdp2_offload")
                if not offloaded or method == "full":
                    cells = (_cell(anatomy, number, strategy) for number in NUM_GPUS)
                    yield f"| {name} | {method}{offloaded} | {' | '.join(cells)} |"


def _cell(anatomy: Anatomy, gpus: int, strategy: str) -> str:
    if gpus == 1 and strategy == "fsdp2":
        strategy = "auto"
    vllm = VLLM(share=None, cache_bytes=int(CACHE_GB * GB))
    beside = estimate(anatomy, Run(gpus, strategy=strategy, engine=vllm))
    alone = estimate(anatomy, Run(gpus, strategy=strategy, engine=Elsewhere()))
    shown = f"{alone.peak / GB:.0f}"
    if beside.fits(80 * GB):
        return f"**{shown}**"
    return shown if alone.fits(80 * GB) else f"({shown})"


def _num_devices(devices: Any) -> int:
    if isinstance(devices, list):
        return len(devices)
    if str(devices).isdigit() and int(devices) > 0:
        return int(devices)
    raise ValueError(
        f"trainer.devices={devices} is decided by the machine; say how many GPUs, as in "
        "--trainer.devices 8"
    )


def _engine(engine: Any, arguments: Namespace) -> Transformers | VLLM | Elsewhere:
    """From the arguments: what is left open in them an engine would decide on this machine."""
    if isinstance(engine, TransformersEngine):
        return Transformers(engine.max_rows)
    if not isinstance(engine, VLLMEngine):
        return Elsewhere(arguments.get("chunk_mib", 512) << 20)
    cache_gib = arguments.get("kv_cache_gib")
    return VLLM(
        share=engine.gpu_memory_utilization if cache_gib is None else None,
        cache_bytes=int((cache_gib or 0) * 2**30),
        sleep=engine.sleep,
        tensor_parallel=engine.tensor_parallel_size,
        precision=4 if arguments.get("precision") == "float32" else 2,
        chunk_bytes=engine.chunk_bytes,
    )


def _items(
    title: str, items: Iterable[Item], phases: Sequence[str], sums: Sequence[float]
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for phase in phases:
        table.add_column(phase, justify="right")
    table.add_column("")
    for item in items:
        shown = f"{item.nbytes / GB:.2f}"
        cells = (shown if phase in item.phases else "" for phase in phases)
        table.add_row(item.name, *cells, item.why)
    table.add_section()
    table.add_row("sum", *(f"{value / GB:.1f}" for value in sums), "")
    return table


def _verdict(run: Run, found: Estimate, size: int) -> str:
    phase = max(PHASES, key=lambda phase: found.needed(phase, size * GB))
    needed = found.needed(phase, size * GB) / GB
    line = f"{size:4} GB: {'fits' if found.fits(size * GB) else 'does not fit'}, {needed:.1f}"
    line += f" in {phase}, of {USABLE * size:.1f} that may be used"
    if not isinstance(run.engine, VLLM) or run.engine.share is None:
        return line
    share = run.engine.share * size * GB
    left = share - found.engine("rollout")
    if left < 0:
        return f"{line}; vLLM's {share / GB:.1f} are too few"
    return f"{line}; vLLM has {share / GB:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
