"""The experts of a mixture: what each token's few chosen experts make of it, summed.

As `grouped_mm` of transformers, but in the precision of autocast, which does not reach a product of
groups, and in float64 too. Every token of a packed row is computed, and none is dropped: experts
have no capacity.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm
from transformers.integrations.moe import ExpertsInterface

from vlm_rl.model.families import FAMILIES, family_of

NAME = "vlm_rl_experts"
"""The experts function that `mix` is registered as."""

_GROUPED = (torch.float32, torch.bfloat16, torch.float16)
"""What torch's product of groups can do."""


def mix(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum over the experts of each token, [S, H].

    `hidden` [S, H]; `chosen` [S, K] int64 and `weights` [S, K] are the experts of each token.
    """
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    # by expert, and in the order of the row within each: stable, so that runs repeat
    order = chosen.flatten().argsort(stable=True)
    ends = torch.bincount(chosen.flatten(), minlength=experts.num_experts).cumsum(0)
    product = _product_of(dtype)
    inner = product(hidden.to(dtype)[order // chosen.shape[1]], experts.gate_up_proj, ends)
    gate, up = inner.chunk(2, dim=-1)
    by_expert = product(experts.act_fn(gate) * up, experts.down_proj, ends)
    outputs = by_expert[order.argsort()].unflatten(0, chosen.shape)
    summed: Tensor = (outputs * weights[..., None].to(dtype)).sum(1)
    return summed.to(hidden.dtype)


def use_experts(model: Any) -> None:
    """Let the language model of a mixture compute its experts by `mix`."""
    model.set_experts_implementation({"text_config": NAME})


def check_experts(config: Any, wanted: Mapping[str, bool]) -> None:
    """Check, before any model is loaded, that a policy of this configuration has experts if any
    key of `wanted` is True. Raises ValueError.
    """
    if family_of(config).routers is not None:
        return
    for key in (key for key, is_wanted in wanted.items() if is_wanted):
        mixtures = [name for name, family in FAMILIES.items() if family.routers is not None]
        raise ValueError(
            f"{key} is for a mixture of experts, and {config.name_or_path} holds a "
            f"{config.model_type!r} model; leave it out, or take one of {', '.join(mixtures)}"
        )


Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of rows [N, in] in the order of experts, matrices [E, out, in] and where each expert's rows end,
[E]."""


def _product_of(dtype: torch.dtype) -> Product:
    return _grouped if dtype in _GROUPED else _one_by_one


def _grouped(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    return grouped_mm(rows, matrices.to(rows.dtype).transpose(1, 2), offs=ends.int())


def _one_by_one(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    pieces = rows.split(ends.diff(prepend=ends.new_zeros(1)).tolist())
    return torch.cat([piece @ matrix.T for piece, matrix in zip(pieces, matrices, strict=True)])


ExpertsInterface.register(NAME, mix)
