"""Gradients by length, with and without the clip: opt-in, because they cost passes of their own."""

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vlm_rl.metrics.length import equal_mass_edges
from vlm_rl.metrics.length_gradients import GradientTally
from vlm_rl.objectives import POLICY_TERM, Clipped, LengthBand, Objective, Surrogate, SurrogateLoss
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO
from vlm_rl.objectives.tokens import Tokens
from vlm_rl.records import Batch
from vlm_rl.training.module import RLModule
from vlm_rl.training.step import Step

NUM_BINS = 5
"""Fewer than those of q: each has a forward with its own copy of the prompts."""


class WithoutClip(Surrogate):
    """-r A, with the gradient of every token."""

    scales_with_advantage = True

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        ratio = torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO))
        return SurrogateLoss.unclipped(-ratio * tokens.advantages)


class LengthGradients(L.Callback):
    """Log the weighted LRE and the cosine of clipped and unclipped update every `every_n_steps`.

    They are of the sequences of the step that have an advantage, at the weights after its updates,
    as if one more update followed. It costs a forward and two backwards of these, and memory for
    four gradients. 0 measures nothing. On one process; `check` refuses what else it cannot do.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def check(self, objective: Objective, world_size: int) -> None:
        """Raise ValueError if the objective has no clip to leave out, or with several processes."""
        if not self.every_n_steps:
            return
        if not isinstance(objective.surrogate, Clipped | LengthBand):
            raise ValueError(
                f"length_gradients={self.every_n_steps} compares an update with the same without "
                f"its clip, but {type(objective).__name__} does not clip a ratio; leave it out"
            )
        if objective.group_loss is not None:
            raise ValueError(
                f"length_gradients={self.every_n_steps} takes rows by length, but a loss of "
                f"{type(objective).__name__} is of whole groups; leave it out"
            )
        if world_size > 1:
            raise ValueError(
                f"length_gradients={self.every_n_steps} needs whole gradients, but this run has "
                f"{world_size} processes; leave it out, or set trainer.devices=1"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, RLModule)
        if not self.every_n_steps or module.completed_steps % self.every_n_steps:
            return
        step: Step = outputs["step"]
        with module.clock("length_gradients"), trainer.precision_plugin.train_step_context():
            module.log_metrics(measure(module, step.rows).metrics())


def measure(module: RLModule, rows: Batch, num_bins: int = NUM_BINS) -> GradientTally:
    """Return the gradients by length of those `rows` that learn and were in some forward."""
    mask = rows.completion_mask
    known = (rows.old_logprobs.isfinite() | ~mask).all(-1)
    learns = (mask & (rows.advantages != 0)).any(-1) & known
    chosen = learns.nonzero()[:, 0].cpu()
    tally = GradientTally()
    if not len(chosen):
        return tally
    own = rows.select(chosen)
    lengths = own.lengths.cpu()
    bins = torch.bucketize(lengths, equal_mass_edges(lengths, num_bins))
    plan = module.objective.prepare(own, lambda total: total)
    without = copy.copy(module.objective)
    without.surrogate = WithoutClip()
    trained = [p for p in module.policy.parameters() if p.requires_grad]
    for number in bins.unique():
        part = own.select((bins == number).nonzero()[:, 0])
        sums = [torch.zeros(sum(p.numel() for p in trained), device=mask.device) for _ in range(2)]
        accepted = 0.0
        for forward in part.micro_batches(module.updates.micro_batch_tokens):
            stats = module.policy.logprobs(
                forward, temperature=module.sampling.temperature, kept=module.forwards.kept
            )
            losses = [objective(stats, forward, plan) for objective in (without, module.objective)]
            accepted += float(losses[1].sequences.accepted.sum())
            for total, loss in zip(sums, losses, strict=True):
                total += _gradient(loss.terms[POLICY_TERM].sum(), trained)
        tally.add(len(part), accepted / len(part), *sums)
    return tally


def _gradient(loss: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    """Return the gradient as one vector, 0 where the loss does not depend on a parameter."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
