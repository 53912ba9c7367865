"""Decoding with the policy's transformers model: each prompt read once, then token by token."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from vlm_rl.model.policy import Policy
from vlm_rl.model.routing import Recorder
from vlm_rl.records import Prompt
from vlm_rl.rollout.chosen_experts import ChosenExperts
from vlm_rl.rollout.shared_prefix import SharedPrefixCache

COMPACT_BELOW = 0.9
"""Ended rows are dropped once the active share is below this: dropping copies the rows' cache."""


class Decoding:
    """R rows in progress, each with its index `rows` [R] in the output.

    `logits` [R, V] are those of the next token, `ended` [R] marks rows that need no more. Reads
    the prompts when it is built. Must run inside `shared_prefix.attending`.
    """

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], group_size: int) -> None:
        self._policy = policy
        device = policy.device
        recorder = _recorder(policy)
        cache, attention, logits = _prefill(policy, prompts, recorder)
        self._experts: ChosenExperts | None = None
        if recorder is not None:
            self._experts = ChosenExperts(recorder, attention, group_size)
        self.logits = logits.repeat_interleave(group_size, 0)
        self.rows = torch.arange(len(prompts) * group_size, device=device)
        self.ended = torch.zeros_like(self.rows, dtype=torch.bool)
        next_positions = torch.tensor([prompt.next_position for prompt in prompts], device=device)
        self._positions = next_positions.repeat_interleave(group_size)
        self._cache = SharedPrefixCache(cache, attention, group_size)
        self._attention = (
            attention.repeat_interleave(group_size, 0) if self._cache.needs_mask else None
        )

    def advance(self, tokens: Tensor, ended: Tensor) -> bool:
        """Feed `tokens` [R] and compute the logits of the next; False if all rows have `ended`."""
        self.ended = self.ended | ended
        active = (~self.ended).nonzero()[:, 0]
        if not len(active):
            return False
        if len(active) < COMPACT_BELOW * len(self.rows):
            tokens = self._compact(active, tokens)
        if self._attention is not None:
            new = torch.ones_like(tokens[:, None])
            self._attention = torch.cat([self._attention, new], dim=1)
        recorder = _recorder(self._policy)
        hidden = self._policy.model.model(
            input_ids=tokens[:, None],
            attention_mask=self._attention,
            position_ids=self._positions[None, :, None].expand(3, -1, -1),
            past_key_values=self._cache,
            use_cache=True,
            shared=self._cache,  # transformers hands it on to the attention function
            routing=recorder,
        ).last_hidden_state[:, -1]
        if self._experts is not None and recorder is not None:
            self._experts.append(self.rows, recorder)
        self.logits = self._policy.model.lm_head(hidden)
        self._positions = self._positions + 1
        return True

    def experts(self, lengths: Tensor) -> Sequence[Tensor | None]:
        """Return those that were computed for the rows of all these `lengths`, see `Completion`."""
        if self._experts is None:
            return [None] * len(lengths)
        return self._experts.of_rows(lengths.tolist())

    def _compact(self, active: Tensor, tokens: Tensor) -> Tensor:
        """Drop all rows but the `active`; return the tokens of those."""
        self.rows, self.ended = self.rows[active], self.ended[active]
        self._positions = self._positions[active]
        if self._attention is not None:
            self._attention = self._attention[active]
        self._cache.keep(active)
        return tokens[active]


def _recorder(policy: Policy) -> Recorder | None:
    return Recorder() if policy.num_routers else None


def _prefill(
    policy: Policy, prompts: Sequence[Prompt], recorder: Recorder | None
) -> tuple[DynamicCache, Tensor, Tensor]:
    """Read each prompt once, padded on the left.

    Returns its keys and values, the mask [P, S] of its tokens and the logits [P, V] of the next.
    """
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
    attention = attention.to(device)
    cache = DynamicCache(config=policy.model.config.get_text_config())
    hidden = policy.model.model(
        input_ids=token_ids.to(device),
        attention_mask=attention,
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
        routing=recorder,
        **vision,
    ).last_hidden_state[:, -1]
    return cache, attention, policy.model.lm_head(hidden)
