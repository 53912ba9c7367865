"""The frozen reference of KL terms."""

from dataclasses import replace

import torch

from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.lora import adapters_off
from vlm_rl.model.policy import Policy
from vlm_rl.model.vision import KeptFeatures
from vlm_rl.records import Rows


class Reference:
    """A frozen policy. Not an `nn.Module`, so that it stands in no module tree: it is not saved,
    not optimised and not wrapped by a strategy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def logprobs(
        self, rows: Rows, *, temperature: float, kept: KeptFeatures | None = None
    ) -> TokenStats:
        """Return per-token statistics of `rows`, each [B, T], without gradients.

        Its routers choose for themselves: experts that an engine chose are the policy's.
        """
        rows = replace(rows, experts=())
        with torch.no_grad():
            return self.policy.logprobs(rows, temperature=temperature, kept=kept)

    def to(self, device: torch.device) -> "Reference":
        """Move the weights to `device`."""
        self.policy.to(device)
        return self


class BaseModel(Reference):
    """The trained policy with its LoRA adapters switched off: no weight of its own."""

    def logprobs(
        self, rows: Rows, *, temperature: float, kept: KeptFeatures | None = None
    ) -> TokenStats:
        with adapters_off(self.policy.model):
            return super().logprobs(rows, temperature=temperature, kept=kept)

    def to(self, device: torch.device) -> Reference:
        return self  # the policy's own weights, which the strategy moves


def reference_of(policy: Policy, *, share: bool = True) -> Reference:
    """Freeze what the policy is now. `share` keeps one copy of frozen parts, which must not be if
    the policy's are sharded later and the reference's are not."""
    return BaseModel(policy) if policy.has_adapters else Reference(policy.frozen_copy(share=share))
