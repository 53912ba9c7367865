"""Rollouts with the policy's own transformers model: no second copy of the weights, any device.

Each prompt is read once, and the completions of its group attend to the same keys and values
(`shared_prefix`). Completions that have ended leave the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout.decoding import Decoding
from vlm_rl.rollout.draw import draw
from vlm_rl.rollout.engine import Engine, decoded
from vlm_rl.rollout.sampling import Sampling
from vlm_rl.rollout.shared_prefix import attending
from vlm_rl.rollout.stop_tokens import StopTokens


class TransformersEngine(Engine):
    """Samples from the live policy. `max_rows` bounds the completions decoded side by side, but a
    group is never split: at least one group is decoded at a time."""

    returns_experts = True

    def __init__(self, max_rows: int = 256) -> None:
        if max_rows < 1:
            raise ValueError(f"TransformersEngine.max_rows must be >= 1, got {max_rows}")
        self.max_rows = max_rows
        self._policy: Policy | None = None

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self._policy = policy
        self._tokenizer = encoder.tokenizer
        self._stop_ids = torch.tensor(StopTokens.of(encoder.path, encoder.tokenizer).ids)

    def update_weights(self, policy: Policy) -> None:
        assert policy is self._policy, "this engine samples from the live policy only"

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        policy = self._policy
        assert policy is not None, "call Engine.start before Engine.generate"
        generator = torch.Generator(policy.device).manual_seed(seed)
        per_batch = max(1, self.max_rows // group_size)
        groups: list[list[Completion]] = []
        language_model = policy.part("language_model")
        with policy.evaluating(), policy.shards.gathered(policy), attending(language_model):
            for start in range(0, len(prompts), per_batch):
                part = prompts[start : start + per_batch]
                rows = self._decode(policy, part, group_size, sampling, generator)
                groups += [rows[i : i + group_size] for i in range(0, len(rows), group_size)]
        return groups

    def _decode(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> list[Completion]:
        owners = [prompt for prompt in prompts for _ in range(group_size)]
        decoding = Decoding(policy, prompts, group_size)
        stop_ids = self._stop_ids.to(policy.device)
        out = _Output(len(owners), policy.device)
        for _ in range(sampling.max_completion_tokens):
            # a number for every row, also for those that have left: no draw depends on which have
            uniforms = torch.rand(
                len(owners), dtype=torch.float64, device=policy.device, generator=generator
            )
            tokens, logprobs = draw(
                decoding.logits, policy.banned_ids, sampling.temperature, uniforms[decoding.rows]
            )
            ended = torch.isin(tokens, stop_ids)
            out.append(decoding.rows, tokens, logprobs, ended)
            if not decoding.advance(tokens, ended):
                break
        return out.completions(owners, self._tokenizer, decoding.experts(out.lengths))


class _Output:
    """Tokens of each row as they are sampled; a row that has ended gets no more."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def append(self, rows: Tensor, tokens: Tensor, logprobs: Tensor, ended: Tensor) -> None:
        self.steps.append((rows, tokens, logprobs))
        self.lengths[rows] += ~self.ended[rows]
        self.ended[rows] |= ended

    def completions(
        self, owners: Sequence[Prompt], tokenizer: Any, experts: Sequence[Tensor | None]
    ) -> list[Completion]:
        """Return the completion of each row, given its prompt and its experts."""
        tokens = torch.zeros(len(owners), len(self.steps), dtype=torch.int64)
        logprobs = torch.zeros(tokens.shape)
        for step, (rows, drawn, described) in enumerate(self.steps):
            tokens[rows.cpu(), step] = drawn.cpu()
            logprobs[rows.cpu(), step] = described.float().cpu()
        ends = zip(owners, self.lengths.tolist(), self.ended.tolist(), strict=True)
        return [
            decoded(
                owner,
                tokenizer,
                token_ids=tokens[row, :length].tolist(),
                logprobs=logprobs[row, :length].tolist(),
                finish_reason="stop" if ended else "length",
                experts=experts[row],
            )
            for row, (owner, length, ended) in enumerate(ends)
        ]
