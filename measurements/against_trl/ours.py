"""Our side: what a step of `RLModule` does to a group, through the policy's public methods."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import GRPO
from vlm_rl.records import Batch, Completion, Prompt
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.training.update import divided

CLIP = 0.2


class Ours:
    """The work of `vlm_rl` on one `batch`, as a forward of a single process does it.

    On a GPU it computes in bfloat16 with float32 weights, as `trainer.precision=bf16-mixed`.
    """

    def __init__(self, policy: Policy, batch: Batch) -> None:
        self.policy = policy.train()
        self.batch = batch
        self.objective = GRPO(clip_low=CLIP, clip_high=CLIP)
        self.engine = TransformersEngine()

    def update(self) -> float:
        """Do forward, loss and backward; return the loss and leave gradients of this batch only.

        The entropy is computed too, as `RLModule.update` and TRL do for their metrics.
        """
        self.policy.zero_grad(set_to_none=True)
        plan = self.objective.prepare(self.batch, lambda counts: counts)
        with self.precision():
            stats = self.policy.logprobs(self.batch, temperature=1.0, with_entropy=True)
        loss = self.objective(stats, self.batch, plan)
        value = divided(loss, self.objective.normalizers(self.batch))
        value.backward()
        return float(value.detach())

    def logprobs(self) -> Tensor:
        """Return log-probabilities [B, T] without gradients."""
        with torch.no_grad(), self.precision():
            return self.policy.logprobs(self.batch, temperature=1.0).logprobs

    def start_engine(self, encoder: PromptEncoder, max_tokens: int) -> None:
        self.engine.start(self.policy, encoder, Sampling(1.0, max_tokens))

    def rollout(
        self, prompts: list[Prompt], group_size: int, max_tokens: int, seed: int
    ) -> list[list[Completion]]:
        sampling = Sampling(1.0, max_tokens)
        with self.precision():
            return self.engine.generate(
                prompts, group_size=group_size, sampling=sampling, seed=seed
            )

    def precision(self) -> torch.autocast:
        """Compute as a run does on this device."""
        device = self.policy.device.type
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    @contextmanager
    def nothing_banned(self) -> Iterator[None]:
        """Leave vision placeholders in the softmax, as TRL does."""
        banned, self.policy.banned_ids = self.policy.banned_ids, self.policy.banned_ids[:0]
        try:
            yield
        finally:
            self.policy.banned_ids = banned
