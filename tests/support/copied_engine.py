"""An engine that holds a copy of the weights, as vLLM does, but is the transformers model.

It goes through the exchange of weights, its checks and restarts on several ranks without vLLM.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.rollout.vllm.base import VLLMBase
from vlm_rl.rollout.vllm.protocol import Answer, Request


class Copied(VLLMBase):
    """Fails at those weights that `rank` sends whose count is in `breaks_after`. `checkpoint` is
    that of the policy."""

    overlaps = True

    def __init__(self, checkpoint: str, rank: int, breaks_after: list[int], **how: Any) -> None:
        super().__init__(**how)
        self.checkpoint = checkpoint
        self.rank = rank
        self.breaks_after = breaks_after
        self.sent = 0

    def check(self, sampling: Sampling) -> None:
        """Refuse nothing: vLLM is not needed."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self.encoder, self.sampling = encoder, sampling
        super().start(policy, encoder, sampling)

    def send(self, weights: Iterator[tuple[str, Tensor]], **how: bool) -> None:
        state = self.copy.model.state_dict()
        for name, weight in weights:
            self.sent += 1
            if self.rank == ranks.rank() and self.sent in self.breaks_after:
                raise EngineFault("broken on purpose")
            with torch.no_grad():
                state[name].copy_(weight)

    def _launch(self) -> Any:
        self.copy = Policy.from_pretrained(self.checkpoint)
        with torch.no_grad():
            for parameter in self.copy.parameters():
                parameter.zero_()
        self.sampler = TransformersEngine()
        self.sampler.start(self.copy, self.encoder, self.sampling)
        return self

    def _sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        if not prompts:
            return []
        return self.sampler.generate(prompts, group_size=group_size, sampling=sampling, seed=seed)

    def _stop(self) -> None:
        """Do nothing: no process runs."""

    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        raise AssertionError("samples by itself")

    def _empty_caches(self) -> None:
        """Do nothing: there are none."""

    def _load_adapter(self, number: int, folder: Path) -> None:
        raise AssertionError("adapters are merged")
