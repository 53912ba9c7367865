"""Rollouts that are the same in every run: engines without a model, a judge without a checker."""

import os
import signal
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlm_rl import objectives
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.weights import checksum, frozen_checksum
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.policy import Policy
from vlm_rl.records import Batch, Completion, Groups, Problem, Prompt, Scores, Verdict
from vlm_rl.rollout import Engine, Sampling


class Replayed(Engine):
    """Answers each problem with a group of its own, always the same, of very uneven lengths."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self.limit = sampling.max_completion_tokens

    def update_weights(self, policy: Policy) -> None:
        pass

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        return [self._group(prompt.uid, group_size) for prompt in prompts]

    def _group(self, uid: str, size: int) -> list[Completion]:
        generator = torch.Generator().manual_seed(zlib.crc32(uid.encode()))

        def draw(number: int) -> Completion:
            ids = torch.randint(350, (number,), generator=generator)
            logprobs = -5.8 - 0.2 * torch.rand(number, generator=generator)
            reason = "length" if number == self.limit else "stop"
            return Completion(ids, logprobs, reason, "")

        longest = int(torch.randint(2, self.limit + 1, (1,), generator=generator))
        return [draw(1 + k * (longest - 1) // max(size - 1, 1)) for k in range(size)]


class ReplayedExperts(Replayed):
    """Names experts beside the tokens, always the same: `chosen` of E for a token in each layer."""

    returns_experts = True

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        super().start(policy, encoder, sampling)
        config = policy.model.config.get_text_config()
        self.shape = (policy.num_routers, config.num_experts)
        self.chosen = config.num_experts_per_tok

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        groups = super().generate(prompts, group_size=group_size, sampling=sampling, seed=seed)
        return [self._routed(*pair) for pair in zip(prompts, groups, strict=True)]

    def _routed(self, prompt: Prompt, group: Sequence[Completion]) -> list[Completion]:
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.uid.encode()))

        def draw(number: int) -> Tensor:
            order = torch.rand(number, *self.shape, generator=generator).argsort(-1)
            return order[..., : self.chosen].to(torch.uint8)

        before = draw(len(prompt))
        return [replace(c, experts=torch.cat([before, draw(len(c) - 1)])) for c in group]


class SpoiltOnce(objectives.LUSPO):
    """The loss of the first update is not a number."""

    first: Any = None

    def __call__(self, stats: TokenStats, batch: Batch, plan: Any) -> objectives.Loss:
        self.first = plan if self.first is None else self.first
        loss = super().__call__(stats, batch, plan)
        factor = torch.nan if plan is self.first else 1.0
        return loss._replace(terms={name: term * factor for name, term in loss.terms.items()})


class Interrupted(Replayed):
    """Tells its process to end in the second training step after each start."""

    steps = 0

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        self.steps += group_size > 1
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().generate(prompts, group_size=group_size, sampling=sampling, seed=seed)


class Frozen(Replayed):
    """Ends where what this process holds of the frozen parameters has no checksum of its own."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        super().start(policy, encoder, sampling)
        assert frozen_checksum(policy) != checksum([], policy.shards), "nothing is hashed"


class Judge:
    """Rewards even token ids, all completions of the problems in `equal` alike; those of the
    problems in `unscored` could not be checked."""

    reads_policy = False

    def __init__(self, unscored: str, equal: str) -> None:
        self.unscored, self.equal = unscored, equal

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Scores:
        even = [[float((c.token_ids % 2 == 0).double().mean()) for c in group] for group in groups]
        reward = torch.tensor(even, dtype=torch.float64)
        reward[[problem.uid in self.equal for problem in problems]] = 0.5
        verdicts = [
            [
                Verdict.ERROR
                if p.uid in self.unscored
                else Verdict.CORRECT
                if value > 0.5
                else Verdict.WRONG
                for value in row
            ]
            for p, row in zip(problems, even, strict=True)
        ]
        scored = torch.tensor([[verdict.scored for verdict in row] for row in verdicts])
        return Scores({"even": reward}, torch.where(scored, reward, 0.0), verdicts, {"even": 1.0})
