"""The stream of a policy's weights for a rollout engine that holds its own copy.

Names are those of the transformers model's `state_dict()`, whatever wraps it. The stream holds one
full tensor at a time, so that sharded weights are never whole in memory together. Adapters other
than plain LoRA (DoRA, LoRA biases, fully trained modules) are refused.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_WRAPPER = "base_model.model."
_ADAPTER = re.compile(r"\.lora_\w+\.")
_MAX_DEPTH = 3


def named_weights(
    model: nn.Module, *, merge_adapters: bool = True, only: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield every entry of the plain model's `state_dict()`, a tied head included, detached.

    `only` names the entries to yield; the others are not gathered. Weights of FSDP2 (DTensor) are
    gathered one by one. That is a collective: every rank must exhaust the stream. Other weights are
    the model's own memory, not copies. Layers with LoRA adapters (peft) come as float32
    W + sum of (alpha / r) B A over the active adapters, without `merge_adapters` as W; the model is
    not changed. Raises ValueError, at the first step, for adapters that this formula does not
    describe.
    """
    layers = _adapted_layers(model) if merge_adapters else {}
    for name, weight in model.state_dict().items():
        if not is_adapter(name) and (only is None or _plain(name) in only):
            layer = layers.get(name.removesuffix(".base_layer.weight"))
            # a variable would keep the full tensor alive while the next one is gathered
            yield _plain(name), full(weight) if layer is None else _merged(weight, layer)


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters behind the stream by the same names, tied ones under each name.

    Of a layer with adapters, yield the parameter below them.
    """
    # a forward of FSDP2 leaves gathered parameters, changes of which would be lost; state_dict()
    # puts the sharded ones back, named_parameters() does not
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter) and not is_adapter(name):
            yield _plain(name), value


def is_adapter(name: str) -> bool:
    """Return whether a state of this name belongs to a LoRA adapter."""
    return _ADAPTER.search(name) is not None


def blocks(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names by the block they belong to, in the order of first appearance.

    A block is the module that holds the weight, cut to three components of its path and a number
    that comes fourth: `lm_head`, `model.visual.merger`, `model.visual.blocks.0`.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        module = name.split(".")[:-1]
        is_numbered = len(module) > _MAX_DEPTH and module[_MAX_DEPTH].isdigit()
        block = ".".join(module[: _MAX_DEPTH + is_numbered])
        groups.setdefault(block, []).append(name)
    return groups


def chunks(
    weights: Iterable[tuple[str, Tensor]], max_bytes: int
) -> Iterator[list[tuple[str, Tensor]]]:
    """Group weights in order, as many as stay within `max_bytes`; a larger tensor is alone.

    Raises ValueError for `max_bytes` < 1.
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be >= 1, got {max_bytes}")
    return _chunks(weights, max_bytes)


def _chunks(
    weights: Iterable[tuple[str, Tensor]], max_bytes: int
) -> Iterator[list[tuple[str, Tensor]]]:
    chunk: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        if chunk and size + tensor.nbytes > max_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, tensor))
        size += tensor.nbytes
    if chunk:
        yield chunk


def _plain(name: str) -> str:
    """Return the name without what peft adds to it."""
    return name.removeprefix(_WRAPPER).replace(".base_layer.", ".")


def full(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; return any other as it is."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _merged(weight: Tensor, layer: Any) -> Tensor:
    """Add the deltas to a copy: the base weight is the model's own memory."""
    with torch.no_grad():
        merged = full(weight).float()
        for adapter in _adding(layer):
            merged = merged + full(layer.get_delta_weight(adapter))
    return merged


def _adding(layer: Any) -> list[str]:
    """Return the adapters that add to this layer's output now."""
    if layer.disable_adapters:
        return []
    return [adapter for adapter in layer.active_adapters if adapter in layer.scaling]


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Return LoRA layers by name. Raises ValueError for anything else that peft has added."""
    layers: dict[str, Any] = {}
    uses = Counter(map(id, model.state_dict(keep_vars=True).values()))
    for name, module in model.named_modules():
        reason = _refusal(module, uses)
        if reason:
            raise ValueError(f"{_plain(name)} cannot be streamed to a rollout engine: {reason}")
        if hasattr(module, "base_layer"):
            layers[name] = module
    return layers


def _refusal(layer: Any, uses: Counter[int]) -> str | None:
    """Return why base weight and deltas do not describe this layer; None if they do."""
    if hasattr(layer, "original_module"):
        return "it is in peft's modules_to_save or has trainable tokens; use LoRA layers only"
    if not hasattr(layer, "base_layer"):
        return None
    base = layer.base_layer
    is_lora = hasattr(layer, "lora_variant") and not hasattr(layer, "parameter_name")
    if not is_lora or "weight" not in base._parameters:
        return "it is not a LoRA layer over a single weight; use LoRA on linear layers"
    if layer.merged:
        return "its adapters are merged in already; unmerge them"
    if any(name in layer.lora_variant or layer.lora_bias.get(name) for name in _adding(layer)):
        return "it uses DoRA, another variant of LoRA or a bias; use plain LoRA"
    if uses[id(base.weight)] > 1:
        return "its weight is tied to another one that the adapters do not change; leave it out"
    return None
