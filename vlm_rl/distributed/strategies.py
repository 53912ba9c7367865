"""Every strategy by its name, and what the training step asks of each.

    auto, ddp       every rank holds all weights; gradients are averaged
    fsdp2           weights, gradients and optimizer state are sharded, see `fsdp2`
    fsdp2_offload   and wait in CPU memory for their turn
    zero1 .. zero3, zero2_offload, zero3_offload
                    DeepSpeed's stages, see `deepspeed`

Ranks are on CPUs (gloo) or GPUs (nccl), of one machine or of many. Nothing outside this folder asks
which strategy runs: it calls the methods of `RankStrategy`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, Strategy

from vlm_rl.distributed import deepspeed, fsdp2
from vlm_rl.distributed.rank_strategy import RankStrategy, Replicated
from vlm_rl.model import safe_archives

STRATEGIES: Mapping[str, Callable[[bool], Strategy | str]] = {
    "auto": lambda half: "auto",
    "ddp": lambda half: DDPStrategy(gradient_as_bucket_view=True),
    **fsdp2.STRATEGIES,
    **deepspeed.STRATEGIES,
}
"""Each builds a strategy; the argument says whether forwards compute in bfloat16."""


def build(name: Any, precision: Any = "32-true") -> Strategy | str:
    """Return the Trainer's strategy. Raises ValueError as `check` does."""
    check(name)
    return STRATEGIES[name](precision == "bf16-mixed")


def check(name: Any) -> None:
    """Raise ValueError for a name that is not in `STRATEGIES`."""
    if not isinstance(name, str) or name not in STRATEGIES:
        raise ValueError(f"trainer.strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")


def of(strategy: Strategy) -> RankStrategy:
    """Return what the training step asks of the Trainer's strategy; Lightning's own replicate."""
    return strategy if isinstance(strategy, RankStrategy) else Replicated(strategy)


def fixes_num_ranks(name: str) -> bool:
    """Whether a run of this strategy resumes on the same number of ranks only."""
    return name in deepspeed.STRATEGIES


def checkpoint_files(checkpoint: Path) -> list[Path]:
    """List the torch archives that make up a trainer checkpoint."""
    return deepspeed.checkpoint_files(checkpoint) if checkpoint.is_dir() else [checkpoint]


def check_safe(checkpoint: Path) -> None:
    """Raise ValueError if a file of a trainer checkpoint holds more than values, which DeepSpeed
    would run in loading it."""
    allowed = deepspeed.saved_classes() if checkpoint.is_dir() else ()
    for file in checkpoint_files(checkpoint):
        safe_archives.load(file, allowed)


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Return what a trainer checkpoint holds for all ranks alike, on the CPU.

    `state_dict` is absent if every rank has saved its own part of the weights. Raises
    FileNotFoundError, and ValueError as `check_safe` does.
    """
    if checkpoint.is_dir():
        return deepspeed.read_checkpoint(checkpoint)
    return safe_archives.load(checkpoint)
