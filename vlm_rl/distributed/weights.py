"""Weights of a policy whatever shards them: whole, by name, written, and their checksums."""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.model.lora import save_adapter
from vlm_rl.model.policy import Policy, empty_model
from vlm_rl.model.saving import DiskPrecision, save_model
from vlm_rl.model.shards import Shards


def frozen_checksum(policy: Policy) -> str:
    """Return the SHA-256 of what this rank holds of the parameters that are not trained."""
    frozen = (parameter for parameter in policy.parameters() if not parameter.requires_grad)
    return checksum(frozen, policy.shards)


def checksum(parameters: Iterable[Tensor], shards: Shards) -> str:
    """Return the SHA-256 of what this rank holds of the parameters."""
    digest = hashlib.sha256()
    for parameter in parameters:
        own = shards.own(parameter).detach().cpu().contiguous()
        digest.update(own.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def whole_weights(
    policy: Policy, *, merge_adapters: bool = True, only: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight of the transformers model by name, or `only` some, gathered one by one:
    every rank must go through all of them. For adapters see `vlm_rl.model.weights.named_weights`.
    """
    return policy.shards.weights(policy.model, merge_adapters=merge_adapters, only=only)


def save_pretrained(
    policy: Policy,
    folder: Path,
    *,
    merge_adapter: bool = False,
    precision: DiskPrecision = "source",
) -> None:
    """Write whole weights for `from_pretrained`, or only the adapters of a policy that has some,
    unless they are to be merged. Call on every rank; rank 0 writes.

    If a policy is sharded, or merged, rank 0 holds a second copy on the CPU meanwhile.
    """
    is_writer = ranks.rank() == 0
    if policy.has_adapters and not merge_adapter:
        save_adapter(policy.model, folder, write=is_writer)
        return
    if policy.shards.are_whole and not policy.has_adapters:
        if is_writer:
            policy.save(folder, precision=precision)
        return
    weights: dict[str, Tensor] = {}
    for name, tensor in whole_weights(policy):
        if is_writer:
            weights[name] = tensor.cpu()
    if is_writer:
        whole = _plain_model(policy, weights)
        save_model(whole, folder, source=policy.source_dtype, precision=precision)


def _plain_model(policy: Policy, weights: dict[str, Tensor]) -> Any:
    """Build a model around `weights`, saved as one that was never sharded, names included."""
    model = empty_model(policy.model.config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = policy.model.generation_config
    return model
