"""Write a transformers model as published checkpoints of its family are: names, layout, precision.

transformers and vLLM load the folder, and any tool that knows the published one.
"""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vlm_rl.model.families import family_of

DiskPrecision = Literal["source", "float32", "bfloat16"]
"""Of the weights on the disk; "source" is that of the checkpoint the policy has come from."""

MAX_SHARD_SIZE = "5GB"
"""Larger checkpoints are several files with an index: what hubs and file systems take well."""


def check_precision(name: str, precision: str) -> None:
    """Raise ValueError for a precision that is not known, given the name of its key."""
    if precision not in get_args(DiskPrecision):
        raise ValueError(
            f"{name} must be one of {', '.join(get_args(DiskPrecision))}, got {precision}"
        )


def dtype_of(config: Any) -> torch.dtype:
    """Return the precision that a checkpoint says it has; float32 if it says none."""
    said = config.dtype
    dtype = getattr(torch, said, None) if isinstance(said, str) else said
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def published(config: Any, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Give weights of a transformers model the layout of published checkpoints."""
    family = family_of(config)
    for name, weight in weights:
        yield name, weight.transpose(1, 2).contiguous() if family.is_turned(name) else weight


def check_layout(path: str, config: Any) -> None:
    """Refuse experts whose layout no reader can tell from its transpose. Raises ValueError.

    transformers 5.19 compares the shape in the file with the model's, and both are equal.
    """
    text = config.get_text_config()
    sizes = getattr(text, "moe_intermediate_size", 0) * 2, getattr(text, "hidden_size", -1)
    if family_of(config).turned is not None and sizes[1] in (sizes[0], sizes[0] // 2):
        raise ValueError(
            f"{path}: experts with hidden_size={sizes[1]} and moe_intermediate_size="
            f"{sizes[0] // 2} are square, so that a file does not say which side is which; take "
            "other sizes"
        )


def save_model(
    model: Any,
    folder: Path,
    *,
    source: torch.dtype,
    precision: DiskPrecision = "source",
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Write weights, their index if they are several files, and the configuration."""
    dtype = source if precision == "source" else getattr(torch, precision)
    weights = _cast(published(model.config, model.state_dict().items()), dtype)
    model.save_pretrained(
        folder,
        state_dict=weights,
        max_shard_size=max_shard_size,
        # else it would undo `published`; such a family has no other names in memory
        save_original_format=family_of(model.config).turned is None,
    )
    config = copy.deepcopy(model.config)
    for part in (config, config.get_text_config(), config.vision_config):
        part.dtype = dtype
    config.save_pretrained(folder)


def _cast(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast floating-point weights; tied ones stay one tensor."""
    cast: dict[int, Tensor] = {}
    return {
        name: cast.setdefault(
            weight.data_ptr(), weight.to(dtype) if weight.is_floating_point() else weight
        )
        for name, weight in weights
    }
