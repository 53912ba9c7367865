"""The shapes of a policy, from the configuration of its model alone.

The model is built on torch's meta device, which has shapes and no memory: no weight is read.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from vlm_rl.memory.layers import shape_of
from vlm_rl.model.families import PARTS, Freezable, Part, family_of
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import empty_model

Weights = Mapping[str, nn.Parameter]


class ModelShape:
    """The policy that `Policy.from_pretrained` makes of a checkpoint with this configuration.

    `weights` are parameters on the meta device by name, tied ones once; `base` has no adapters.
    `text` and `tower` are the layers. `head` is the matrix of the logits, which may be tied to the
    embeddings. A patch has `pixels` numbers; `patches` of them become a token in each of `mergers`
    mergers.
    """

    def __init__(
        self, config: Any, *, freeze: Sequence[Freezable] = (), lora: LoraSettings | None = None
    ) -> None:
        model = empty_model(config)
        model.tie_weights()
        text, vision, tower = config.get_text_config(), config.vision_config, model.model.visual
        self.base = dict(model.named_parameters())
        for name, weight in self.base.items():
            weight.requires_grad_(lora is None and _part(name) not in freeze)
        if "router" in freeze:
            _freeze_routers(config, self.base)
        layers = model.model.language_model.layers
        self.text = [shape_of(layer, text.num_attention_heads) for layer in layers]
        self.tower = [shape_of(block, vision.num_heads) for block in tower.blocks]
        if lora:
            _add_adapters(model, lora)
        self.weights = dict(model.named_parameters())
        self.trained = {name: w for name, w in self.weights.items() if w.requires_grad}
        self.tower_trained = any(_part(name) == "vision_tower" for name in self.trained)
        self.head, self.vocabulary = model.lm_head.weight, text.vocab_size
        self.pixels = prod(tower.patch_embed.proj.weight.shape[1:])
        self.patches = vision.spatial_merge_size**2
        self.mergers = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))

    def cached(self, compute: int) -> int:
        """Return the bytes of keys and values of a token; a recurrence has none."""
        return sum(layer.mixer.cached(compute) for layer in self.text)

    def state(self, compute: int) -> int:
        """Return the bytes of the states of a row, of whatever length."""
        return sum(layer.mixer.state(compute) for layer in self.text)


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


def _freeze_routers(config: Any, weights: Weights) -> None:
    layers = re.escape(PARTS["language_model"]) + r"\.layers\.\d+"
    for name, weight in weights.items():
        if re.fullmatch(rf"{layers}\.({family_of(config).routers})\.weight", name):
            weight.requires_grad_(False)


def _add_adapters(model: nn.Module, lora: LoraSettings) -> None:
    """Add A [rank, inputs] and B [outputs, rank] to each adapted matrix, without peft."""
    targets = "|".join(family_of(model.config).matrices[part] for part in lora.parts)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and re.fullmatch(targets, name):
            module.lora_A = nn.Linear(module.in_features, lora.rank, bias=False, device="meta")
            module.lora_B = nn.Linear(lora.rank, module.out_features, bias=False, device="meta")
