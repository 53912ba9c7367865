"""The shapes of a policy, from the configuration of its model alone.

The model is built on torch's meta device, which has shapes and no memory: no weight is read.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from vlm_rl.model.families import Part, family_of
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import empty_model

Weights = Mapping[str, nn.Parameter]


class LayerShape:
    """Equal transformer layers: their `count` and widths.

    `hidden` is the residual stream, `queries` and `keys` (and as many values) those of all heads,
    `mlp` the inside of the MLP, which is `gated` if a second matrix multiplies the first.
    """

    def __init__(self, layers: Any, heads: int) -> None:
        mlp = [module for module in layers[0].mlp.modules() if isinstance(module, nn.Linear)]
        self.count, self.heads, self.gated = len(layers), heads, len(mlp) == 3
        self.hidden, self.mlp = mlp[0].in_features, mlp[0].out_features
        self.queries = self.keys = self.hidden
        if attention := getattr(layers[0], "self_attn", None):  # the tower's is as wide as hidden
            self.queries, self.keys = attention.q_proj.out_features, attention.k_proj.out_features


class ModelShape:
    """The policy that `Policy.from_pretrained` makes of a checkpoint with this configuration.

    `weights` are parameters on the meta device by name, tied ones once; `base` has no adapters.
    `head` is the matrix of the logits, which may be tied to the embeddings. A patch has `pixels`
    numbers; `patches` of them become a token in each of `mergers` mergers.
    """

    def __init__(
        self, config: Any, *, freeze: Sequence[Part] = (), lora: LoraSettings | None = None
    ) -> None:
        model = empty_model(config)
        model.tie_weights()
        text, vision, tower = config.get_text_config(), config.vision_config, model.model.visual
        self.base = dict(model.named_parameters())
        for name, weight in self.base.items():
            weight.requires_grad_(lora is None and _part(name) not in freeze)
        self.text = LayerShape(model.model.language_model.layers, text.num_attention_heads)
        self.tower = LayerShape(tower.blocks, vision.num_heads)
        if lora:
            _add_adapters(model, lora)
        self.weights = dict(model.named_parameters())
        self.trained = {name: w for name, w in self.weights.items() if w.requires_grad}
        self.tower_trained = any(_part(name) == "vision_tower" for name in self.trained)
        self.head, self.vocabulary = model.lm_head.weight, text.vocab_size
        self.pixels = prod(tower.patch_embed.proj.weight.shape[1:])
        self.patches = vision.spatial_merge_size**2
        self.mergers = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))


def count(weights: Weights) -> int:
    """Return how many numbers they have in all."""
    return sum(weight.numel() for weight in weights.values())


def by_block(weights: Weights) -> Counter[str]:
    """Return the size of what `vlm_rl.distributed.fsdp2` gathers at a time, "" for the root."""
    sizes: Counter[str] = Counter()
    for name, weight in weights.items():
        block = re.match(r"model\.((visual\.blocks|language_model\.layers)\.\d+|visual)", name)
        sizes[block.group() if block else ""] += weight.numel()
    return sizes


def _part(name: str) -> Part:
    return "vision_tower" if name.startswith("model.visual.") else "language_model"


def _add_adapters(model: nn.Module, lora: LoraSettings) -> None:
    """Add A [rank, inputs] and B [outputs, rank] to each adapted matrix, without peft."""
    targets = "|".join(family_of(model.config).matrices[part] for part in lora.parts)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and re.fullmatch(targets, name):
            module.lora_A = nn.Linear(module.in_features, lora.rank, bias=False, device="meta")
            module.lora_B = nn.Linear(lora.rank, module.out_features, bias=False, device="meta")
