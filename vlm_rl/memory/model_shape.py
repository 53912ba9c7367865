"""The shapes of a policy, from the configuration of its model alone.

The model is built on torch's meta device, which has shapes and no memory: no weight is read.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn
from transformers import Qwen2_5_VLConfig

from vlm_rl.model.families import Part, family_of
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import empty_model

Weights = Mapping[str, nn.Parameter]

PUBLISHED = {
    # hidden, layers, heads, key heads, MLP, vocabulary, MLP of the tower, tied
    "3B": (2048, 36, 16, 2, 11008, 151936, 3420, True),
    "7B": (3584, 28, 28, 4, 18944, 152064, 3420, False),
    "32B": (5120, 64, 40, 8, 27648, 152064, 3456, False),
    "72B": (8192, 80, 64, 8, 29568, 152064, 3456, False),
}
"""Qwen2.5-VL, from memory of each `config.json`, not read from the hub. The number of parameters
that follows agrees with the published one, which a test has beside it."""


def published_config(size: str) -> Any:
    """Return the transformers configuration of a model in `PUBLISHED`."""
    hidden, layers, heads, key_heads, mlp, vocabulary, tower_mlp, tied = PUBLISHED[size]
    text = {"hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocabulary}
    text |= {"num_attention_heads": heads, "num_key_value_heads": key_heads}
    text |= {"intermediate_size": mlp}
    tower = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "out_hidden_size": hidden}
    tower |= {"intermediate_size": tower_mlp}
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=tied)


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
    blocks = re.compile(r"model\.((visual\.blocks|language_model\.layers)\.\d+|visual)")
    sizes: Counter[str] = Counter()
    for name, weight in weights.items():
        block = blocks.match(name)
        sizes[block.group() if block else ""] += weight.numel()
    return sizes


def _part(name: str) -> Part:
    return "vision_tower" if name.startswith("model.visual.") else "language_model"


def _add_adapters(model: nn.Module, lora: LoraSettings) -> None:
    """Add A [rank, inputs] and B [outputs, rank] to each adapted matrix, without peft."""
    matrices = family_of(model.config).matrices
    targets = re.compile("|".join(matrices[part] for part in lora.parts))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and targets.fullmatch(name):
            module.lora_A = nn.Linear(module.in_features, lora.rank, bias=False, device="meta")
            module.lora_B = nn.Linear(lora.rank, module.out_features, bias=False, device="meta")
