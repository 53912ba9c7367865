"""What a model is made of, from its configuration alone: every weight's shape, and its layers.

The model is built on torch's meta device, which has shapes and no memory: no weight is read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from vlm_rl.model.lora import MATRICES, LoraSettings, Part

Place = Literal["vision_tower", "language_model", "embeddings", "head"]


@dataclass(frozen=True)
class Weight:
    """A parameter. `block` is what `distributed.strategies` gathers it with, "" for the root."""

    shape: tuple[int, ...]
    place: Place
    block: str
    trained: bool
    adapter: bool = False

    @property
    def numel(self) -> int:
        return prod(self.shape)


def count(weights: Sequence[Weight]) -> int:
    """Their numbers; tied ones stand among an `Anatomy`'s weights once."""
    return sum(weight.numel for weight in weights)


@dataclass(frozen=True)
class Layers:
    """`count` equal transformer layers: the widths of the residual stream, of all queries, of all
    keys (and of all values), and of the MLP, which is `gated` by a second matrix or is not."""

    count: int
    hidden: int
    queries: int
    keys: int
    heads: int
    mlp: int
    gated: bool


@dataclass(frozen=True)
class Anatomy:
    """`pixels` are the numbers of a patch; `patches` of them become a token in each of `mergers`
    mergers."""

    weights: tuple[Weight, ...]
    text: Layers
    tower: Layers
    vocabulary: int
    pixels: int
    patches: int
    mergers: int

    @property
    def trained(self) -> list[Weight]:
        return [weight for weight in self.weights if weight.trained]

    @property
    def base(self) -> list[Weight]:
        """All but adapters."""
        return [weight for weight in self.weights if not weight.adapter]

    @property
    def head(self) -> Weight:
        """The matrix of the logits, which may be that of the embeddings."""
        by_place = {weight.place: weight for weight in self.weights}
        return by_place.get("head") or by_place["embeddings"]

    @property
    def tower_trained(self) -> bool:
        return any(weight.place == "vision_tower" for weight in self.trained)


def by_block(weights: Sequence[Weight]) -> dict[str, int]:
    """Parameters of what is gathered together."""
    sizes: dict[str, int] = {}
    for weight in weights:
        sizes[weight.block] = sizes.get(weight.block, 0) + weight.numel
    return sizes


def dissect(
    config: Any, *, freeze: Sequence[Part] = (), lora: LoraSettings | None = None
) -> Anatomy:
    """The policy that `Policy.from_pretrained` would make of a checkpoint with this transformers
    configuration. Adapters are counted without peft."""
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.tie_weights()
    weights = [
        Weight(tuple(p.shape), _place(name), _block(name), _is_trained(name, freeze, lora))
        for name, p in model.named_parameters()
    ]
    if lora is not None:
        weights += _adapters(model, lora)
    text, tower, merge = config.get_text_config(), model.model.visual, config.vision_config
    return Anatomy(
        weights=tuple(weights),
        text=_text_layers(text),
        tower=_tower_layers(tower, merge.num_heads),
        vocabulary=text.vocab_size,
        pixels=prod(tower.patch_embed.proj.weight.shape[1:]),
        patches=merge.spatial_merge_size**2,
        mergers=1 + len(getattr(merge, "deepstack_visual_indexes", ())),
    )


def _place(name: str) -> Place:
    if name.startswith("lm_head."):
        return "head"
    if ".embed_tokens." in name:
        return "embeddings"
    return "vision_tower" if name.startswith("model.visual.") else "language_model"


def _block(name: str) -> str:
    found = re.match(r"model\.(visual\.blocks|language_model\.layers)\.\d+|model\.visual", name)
    return found.group() if found else ""


def _is_trained(name: str, freeze: Sequence[Part], lora: LoraSettings | None) -> bool:
    part = "vision_tower" if _place(name) == "vision_tower" else "language_model"
    return lora is None and part not in freeze


def _adapters(model: nn.Module, lora: LoraSettings) -> list[Weight]:
    """A [rank, inputs] and B [outputs, rank] of each matrix that is adapted."""
    targets = re.compile("|".join(MATRICES[part] for part in lora.parts))
    return [
        Weight(shape, _place(name), _block(name), trained=True, adapter=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and targets.fullmatch(name)
        for shape in ((lora.rank, module.in_features), (module.out_features, lora.rank))
    ]


def _text_layers(text: Any) -> Layers:
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Layers(
        count=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=text.num_attention_heads * head,
        keys=text.num_key_value_heads * head,
        heads=text.num_attention_heads,
        mlp=text.intermediate_size,
        gated=True,
    )


def _tower_layers(tower: Any, heads: int) -> Layers:
    block = tower.blocks[0]
    (hidden,) = block.norm1.weight.shape
    widths = [m.out_features for m in block.mlp.modules() if isinstance(m, nn.Linear)]
    return Layers(
        count=len(tower.blocks),
        hidden=hidden,
        queries=hidden,
        keys=hidden,
        heads=heads,
        mlp=widths[0],
        gated=len(widths) == 3,
    )
