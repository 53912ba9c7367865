"""Rollouts with the policy's own transformers model: no second copy of the weights, any device.

Each prompt is encoded once, and its key-value cache is then repeated for the completions of the
group. Completions that have ended leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout.engine import STOP_TOKENS, Engine, decoded
from vlm_rl.rollout.sampling import Sampling

COMPACT_BELOW = 0.75
"""Ended rows are dropped once the active share is below this: dropping copies the cache."""


class TransformersEngine(Engine):
    """Samples from the live policy. `max_rows` bounds the completions decoded side by side, but a
    group is never split: at least one group is decoded at a time."""

    def __init__(self, max_rows: int = 256) -> None:
        if max_rows < 1:
            raise ValueError(f"TransformersEngine.max_rows must be >= 1, got {max_rows}")
        self.max_rows = max_rows
        self._policy: Policy | None = None

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self._policy = policy
        self._tokenizer = encoder.tokenizer
        stop_ids = encoder.tokenizer.convert_tokens_to_ids(list(STOP_TOKENS))
        self._stop_ids = torch.tensor(stop_ids)

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
        with policy.evaluating(), policy.shards.gathered(policy):
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
        state = _prefill(policy, prompts, group_size)
        stop_ids = self._stop_ids.to(policy.device)
        out = _Output(len(prompts) * group_size)
        for _ in range(sampling.max_completion_tokens):
            tokens, logprobs = _sample(state.logits, policy.banned_ids, sampling, generator)
            ended = torch.isin(tokens, stop_ids)
            out.append(state.rows, tokens, logprobs, ended)
            if bool((ended | state.ended).all()):
                break
            state.advance(policy, tokens, ended)
        owners = [prompt for prompt in prompts for _ in range(group_size)]
        return [out.completion(row, owner, self._tokenizer) for row, owner in enumerate(owners)]


class _Output:
    """Tokens of each row as they are sampled; a row that has ended gets no more."""

    def __init__(self, num_rows: int) -> None:
        self.ended = [False] * num_rows
        self.tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self.logprobs: list[list[float]] = [[] for _ in range(num_rows)]

    def append(self, rows: Tensor, tokens: Tensor, logprobs: Tensor, ended: Tensor) -> None:
        columns = (rows.tolist(), tokens.tolist(), logprobs.tolist(), ended.tolist())
        for row, token, logprob, end in zip(*columns, strict=True):
            if not self.ended[row]:
                self.tokens[row].append(token)
                self.logprobs[row].append(logprob)
                self.ended[row] = end

    def completion(self, row: int, prompt: Prompt, tokenizer: Any) -> Completion:
        return decoded(
            prompt,
            tokenizer,
            token_ids=self.tokens[row],
            logprobs=self.logprobs[row],
            finish_reason="stop" if self.ended[row] else "length",
        )


@dataclass
class _State:
    """Decoding in progress: R rows, each with its index `rows` [R] in the output.

    `logits` [R, V] are those of the next token, `positions` [R] are its rotary positions,
    `attention` [R, C] marks the cached tokens that are not padding.
    """

    rows: Tensor
    cache: DynamicCache
    attention: Tensor
    positions: Tensor
    ended: Tensor
    logits: Tensor

    def advance(self, policy: Policy, tokens: Tensor, ended: Tensor) -> None:
        """Feed `tokens` [R] and compute the logits of the next token."""
        self.ended = self.ended | ended
        active = (~self.ended).nonzero()[:, 0]
        if len(active) < COMPACT_BELOW * len(self.rows):
            tokens = tokens[active]
            self.rows, self.ended = self.rows[active], self.ended[active]
            self.attention, self.positions = self.attention[active], self.positions[active]
            self.cache.batch_select_indices(active)
        self.attention = torch.cat([self.attention, torch.ones_like(tokens[:, None])], dim=1)
        hidden = policy.model.model(
            input_ids=tokens[:, None],
            attention_mask=self.attention,
            position_ids=self.positions[None, :, None].expand(3, -1, -1),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.logits = policy.model.lm_head(hidden)
        self.positions = self.positions + 1


def _prefill(policy: Policy, prompts: Sequence[Prompt], group_size: int) -> _State:
    """Encode each prompt once, padded on the left, and repeat the result for its group."""
    device = policy.device
    width = max(len(prompt) for prompt in prompts)
    token_ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    attention = torch.zeros_like(token_ids)
    positions = torch.zeros(3, len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        token_ids[row, width - len(prompt) :] = prompt.token_ids
        attention[row, width - len(prompt) :] = 1
        positions[:, row, width - len(prompt) :] = prompt.positions
    vision: dict[str, Tensor] = {}
    pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
    if pixels:
        grids = [p.grid_thw for p in prompts if p.grid_thw is not None]
        vision["pixel_values"] = torch.cat(pixels).to(device)
        vision["image_grid_thw"] = torch.cat(grids).to(device)
    cache = DynamicCache(config=policy.model.config.get_text_config())
    hidden = policy.model.model(
        input_ids=token_ids.to(device),
        attention_mask=attention.to(device),
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
        **vision,
    ).last_hidden_state[:, -1]
    logits = policy.model.lm_head(hidden).repeat_interleave(group_size, 0)
    cache.batch_repeat_interleave(group_size)
    next_positions = torch.tensor([prompt.next_position for prompt in prompts], device=device)
    rows = torch.arange(len(prompts) * group_size, device=device)
    return _State(
        rows=rows,
        cache=cache,
        attention=attention.to(device).repeat_interleave(group_size, 0),
        positions=next_positions.repeat_interleave(group_size),
        ended=torch.zeros_like(rows, dtype=torch.bool),
        logits=logits,
    )


def _sample(
    logits: Tensor, banned_ids: Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a token per row [R], and its log-probability [R] under the distribution drawn from."""
    logits = logits.float() / sampling.softmax_temperature
    logprobs = torch.log_softmax(logits.index_fill(1, banned_ids, float("-inf")), dim=-1)
    if sampling.temperature == 0:
        tokens = logprobs.argmax(-1)
    else:
        tokens = torch.multinomial(logprobs.exp(), 1, generator=generator)[:, 0]
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]
