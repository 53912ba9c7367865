"""A small rollout of the real policy: with the engine, the reward and the settings of the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace

from vlm_rl.data.prompts import BadProblem, PromptEncoder, PromptTooLong
from vlm_rl.distributed.gather import Places
from vlm_rl.distributed.lockstep import Lockstep
from vlm_rl.metrics import drift
from vlm_rl.model.policy import Policy
from vlm_rl.parts import named
from vlm_rl.records import Batch, Groups, Problem, Prompt, Rollout, Rows
from vlm_rl.rollout import EngineError
from vlm_rl.training.clock import Clock
from vlm_rl.training.policy_view import PolicyView
from vlm_rl.training.sampler import Sampler

NUM_UPDATES = 2
"""Forwards whose backward is timed."""


@dataclass(eq=False)
class SmallRollout:
    """Groups of the policy, not judged. `clock` has the seconds of each activity; `drift` compares
    engine and policy, over `tokens` tokens of prompts and completions, of which the update that was
    timed had `updated_tokens`."""

    prompts: Sequence[Prompt]
    groups: Groups
    sampler: Sampler
    clock: Clock
    drift: drift.Drift
    updated_tokens: int
    group_size: int
    temperature: float

    @property
    def num_completions(self) -> int:
        return len(self.prompts) * self.group_size

    @property
    def tokens(self) -> int:
        """Tokens that an update reads, each prompt once."""
        completions = sum(len(c) for group in self.groups for c in group)
        return completions + sum(map(len, self.prompts))

    def judged(self) -> Rollout:
        """Return them with their rewards. Raises PartError for a reward that fails."""
        return self.sampler.judge(
            self.prompts,
            self.groups,
            group_size=self.group_size,
            temperature=self.temperature,
        )


def prompts_of(encoder: PromptEncoder, problems: Sequence[Problem], count: int) -> list[Prompt]:
    """Encode up to `count` problems, evenly spaced, without those that cannot be encoded."""
    chosen = [problems[i * len(problems) // count] for i in range(min(count, len(problems)))]
    prompts = []
    for problem in chosen:
        try:
            prompts.append(encoder.encode(problem))
        except (BadProblem, PromptTooLong):
            continue  # the inspections of the data name it
    return prompts


def sample(
    config: Namespace,
    parts: Namespace,
    encoder: PromptEncoder,
    prompts: Sequence[Prompt],
    *,
    device: torch.device,
    context: Any,
) -> SmallRollout:
    """Load the policy, sample a group for each prompt, compare engine and policy, and time an
    update. `context` makes the context manager of the precision. Raises ValueError and PartError.
    """
    clock, micro_batch_tokens = Clock(), parts.updates.micro_batch_tokens
    with clock("load"):
        policy = Policy.from_pretrained(**vars(parts.policy), seed=config.seed).to(device)
        with named(parts.engine, "engine", EngineError):
            parts.engine.start(policy, encoder, parts.sampling)
    view = PolicyView(policy, micro_batch_tokens=micro_batch_tokens)
    sampler = Sampler(policy, parts.engine, parts.reward, clock, view)
    how = {"group_size": config.group_size, "sampling": parts.sampling}
    with context():
        groups = sampler.sample(prompts, **how, seed=config.seed)
        rows = Rows.build(prompts, groups, torch.ones(len(groups), config.group_size).bool())
        lockstep = Lockstep(policy, num_minibatches=1, micro_batch_tokens=micro_batch_tokens)
        with clock("logprobs"):
            measured = _drift(policy, rows, lockstep, parts.sampling.temperature)
        with clock("update"):
            updated = _update(policy, rows, lockstep, parts.sampling.temperature)
    temperature = parts.sampling.temperature
    return SmallRollout(
        prompts, groups, sampler, clock, measured, updated, config.group_size, temperature
    )


def _drift(policy: Policy, rows: Rows, lockstep: Lockstep, temperature: float) -> drift.Drift:
    places = Places.of([len(rows.prompts)])
    cut = lockstep.cut(rows, places)
    with torch.no_grad():
        stats = [policy.logprobs(part, temperature=temperature) for part in cut.forwards(rows)]
    batch = Batch.of(
        rows,
        old_logprobs=cut.joined(rows, [each.logprobs.cpu() for each in stats]),
        ref_logprobs=None,
        advantages=torch.zeros(len(rows), 1, dtype=torch.float64),
    )
    return drift.measure(batch, places.own)


def _update(policy: Policy, rows: Rows, lockstep: Lockstep, temperature: float) -> int:
    """Do the forward and backward of a few micro-batches; return their tokens."""
    cut, tokens = lockstep.cut(rows, Places.of([len(rows.prompts)])), 0
    for forward in cut.forwards(rows)[:NUM_UPDATES]:
        forward = forward.to(policy.device)
        stats = policy.logprobs(forward, temperature=temperature, with_entropy=True)
        if stats.logprobs.requires_grad:
            stats.logprobs.sum().backward()
        tokens += int(forward.lengths.sum()) + sum(map(len, forward.prompts))
    policy.zero_grad(set_to_none=True)
    return tokens
