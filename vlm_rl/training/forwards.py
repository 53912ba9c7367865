"""Forwards of the policy and the reference, cut alike with gradients and without.

In bf16 another packing rounds otherwise, and GSPO's band of 3e-4 would be filled with that noise.
"""

import torch
from torch import Tensor

from vlm_rl.distributed.lockstep import Cut, Minibatch
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.policy import Policy
from vlm_rl.model.reference import Reference
from vlm_rl.model.vision import KeptFeatures
from vlm_rl.objectives import Objective
from vlm_rl.records import Batch, Rows
from vlm_rl.training.before import Before
from vlm_rl.training.update import in_groups


class Forwards:
    """Computes what `objective` reads of the policy, at the `temperature` of sampling.

    `kept` has the features of a frozen vision tower, which are the same in all forwards of a step.
    """

    def __init__(
        self, policy: Policy, objective: Objective, temperature: float, kept: KeptFeatures | None
    ) -> None:
        self.policy = policy
        self.objective = objective
        self.temperature = temperature
        self.kept = kept

    def logprobs(self, model: Policy | Reference, rows: Rows, cut: Cut) -> Tensor:
        """Return log-probabilities [B, T] of `rows` without gradients; NaN for those left out."""
        with torch.no_grad():
            stats = [
                model.logprobs(forward, temperature=self.temperature, kept=self.kept)
                for forward in cut.forwards(rows)
            ]
        return cut.joined(rows, [of_forward.logprobs for of_forward in stats])

    def before(self, rows: Rows, cut: Cut) -> Before:
        """Return what is known of the policy before the first update, as `logprobs` does."""
        with torch.no_grad():
            stats = [self.stats(forward, with_entropy=False) for forward in cut.forwards(rows)]
        return Before.of(rows, cut, stats)

    def stats(self, forward: Rows, *, with_entropy: bool) -> TokenStats:
        """Return what one forward says of each token; with gradients where they are enabled."""
        return self.policy.logprobs(
            forward,
            temperature=self.temperature,
            with_entropy=with_entropy,
            kept=self.kept,
            with_balance=self.objective.needs_routing,
        )

    def in_groups(self, minibatch: Minibatch[Batch], has_moved: bool) -> Minibatch[Batch]:
        """Complete a minibatch for a loss of whole groups, which costs a pass without gradients in
        every update of a step but the first."""
        if self.objective.group_loss is None:
            return minibatch
        logprobs = [forward.old_logprobs for forward in minibatch.forwards]
        if has_moved:
            with torch.no_grad():
                stats = [self.stats(f, with_entropy=False) for f in minibatch.forwards]
            logprobs = [of_forward.logprobs for of_forward in stats]
        return in_groups(self.objective, minibatch, logprobs)
