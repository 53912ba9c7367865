"""The model families: what all of them share, and what differs, an entry each.

Nothing else in `vlm_rl` knows which family a model belongs to. To add one, write its entry in
`FAMILIES` and its tiny checkpoint in `tests/support/tiny.py`. If it departs from what the others
share, make that a field of `Family`. The size of a patch and of a visual token are read from the
checkpoint's image processor.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Part = Literal["vision_tower", "language_model"]

Freezable = Literal["vision_tower", "language_model", "router"]
"""What `freeze` may name: parts, and the routers of a mixture of experts alone."""

PARTS: dict[Part, str] = {
    "vision_tower": "model.visual",
    "language_model": "model.language_model",
}
"""Where the parts of a policy stand in the transformers model."""

IMAGE_TOKEN = "<|image_pad|>"
"""The placeholder of an image in the chat template, and of each visual token in a prompt."""

_PLACEHOLDERS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)


@dataclass(frozen=True)
class Family:
    """What differs between families.

    `text_matrices` and `tower_matrices` are the matrices of attention and MLP in one layer, a
    regular expression on the path below the layer; so are `routers`, of a mixture of experts, and
    `turned`, the weights that published checkpoints hold with their last two dimensions exchanged.
    `recurrence` is the path below a layer of the language model where some layers have a recurrent
    state in place of attention.
    """

    text_matrices: str
    tower_matrices: str
    routers: str | None = None
    recurrence: str | None = None
    turned: str | None = None

    @property
    def matrices(self) -> dict[Part, str]:
        """Return a regular expression for each part, on the whole name of its matrices.

        It matches by name, not by type: head and embeddings must stay out. The log-probabilities
        read the weight of the head, not its output, and it may be tied.
        """
        text, tower = re.escape(PARTS["language_model"]), re.escape(PARTS["vision_tower"])
        return {
            "language_model": rf"{text}\.layers\.\d+\.({self.text_matrices})",
            "vision_tower": rf"{tower}\.blocks\.\d+\.({self.tower_matrices})",
        }

    def is_turned(self, name: str) -> bool:
        """Return whether a published checkpoint holds the weight of this name transposed."""
        text = re.escape(PARTS["language_model"])
        turned = self.turned
        return turned is not None and bool(re.fullmatch(rf"{text}\.layers\.\d+\.({turned})", name))


_DENSE = r"self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj"
_HYBRID = rf"{_DENSE}|linear_attn\.(in_proj_(qkv|z|b|a)|out_proj)"

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(_DENSE, r"attn\.(qkv|proj)|mlp\.fc[12]"),
    "qwen2_5_vl": Family(_DENSE, r"attn\.(qkv|proj)|mlp\.(gate|up|down)_proj"),
    "qwen3_vl": Family(_DENSE, r"attn\.(qkv|proj)|mlp\.linear_fc[12]"),
    "qwen3_vl_moe": Family(
        _DENSE,
        r"attn\.(qkv|proj)|mlp\.linear_fc[12]",
        routers=r"mlp\.gate",
        turned=r"mlp\.experts\.(gate_up|down)_proj",
    ),
    "qwen3_5": Family(_HYBRID, r"attn\.(qkv|proj)|mlp\.linear_fc[12]", recurrence="linear_attn"),
    "qwen3_5_moe": Family(
        rf"{_HYBRID}|mlp\.shared_expert\.(gate|up|down)_proj|mlp\.shared_expert_gate",
        r"attn\.(qkv|proj)|mlp\.linear_fc[12]",
        routers=r"mlp\.gate",
        recurrence="linear_attn",
    ),
}
"""Supported families by the `model_type` of their configuration; every other one is refused."""


def family_of(config: Any) -> Family:
    """Return the family of a transformers configuration.

    Raises ValueError if it is not supported.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"{config.name_or_path} holds a {config.model_type!r} model; supported are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]


def recurrences(model: nn.Module) -> list[nn.Module]:
    """List the parts of a transformers model that carry a recurrent state along the row."""
    path = family_of(model.config).recurrence
    if path is None:
        return []
    layers: Any = model.get_submodule(PARTS["language_model"]).layers
    parts = (getattr(layer, path, None) for layer in layers)
    return [part for part in parts if isinstance(part, nn.Module)]


def placeholder_ids(config: Any) -> tuple[int, ...]:
    """Return the ids that stand for images and videos: no policy may sample them."""
    return tuple(getattr(config, name) for name in _PLACEHOLDERS)


def rope_positions(
    token_ids: Sequence[int], grid_thw: Tensor | None, image_token_id: int, merge_size: int
) -> Tensor:
    """Return time, height and width rotary positions of one prompt with still images, [3, S] int64.

    Text counts up on all three axes. The visual tokens of an image lie on its merged grid, offset
    by the position p at which it starts. The text behind it goes on at p + max(height, width).
    """
    grids = iter([] if grid_thw is None else grid_thw.tolist())
    columns: list[Tensor] = []
    position = index = 0
    while index < len(token_ids):
        if token_ids[index] == image_token_id:
            time, height, width = next(grids)
            height, width = height // merge_size, width // merge_size
            axes = torch.meshgrid(
                torch.arange(time), torch.arange(height), torch.arange(width), indexing="ij"
            )
            columns.append(position + torch.stack(axes).reshape(3, -1))
            index += time * height * width
            position += max(height, width)
        else:
            columns.append(torch.full((3, 1), position))
            index += 1
            position += 1
    return torch.cat(columns, dim=1)
