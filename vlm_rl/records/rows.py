"""What a forward and an update read: completions side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from vlm_rl.records.rollout import Groups, Prompt


@dataclass(frozen=True, eq=False)
class Rows:
    """Completions side by side, as a forward reads them, ordered by prompt.

    `row_prompt` [B] int64 gives each row its prompt. `completion_ids` [B, T] int64,
    `sampling_logprobs` [B, T] float. `completion_mask` [B, T] bool is True on the leading tokens
    that are trained on, False in the padding (whose values are never read) and along a whole row
    that is left out; such a row does not count as a sequence. `experts` are those of each
    completion on the CPU, or none at all.
    """

    prompts: tuple[Prompt, ...]
    row_prompt: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    sampling_logprobs: Tensor
    experts: tuple[Tensor | None, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        mask = self.completion_mask
        assert len(self.experts) in (0, len(mask))
        assert mask.dtype == torch.bool
        assert not (mask[:, 1:] & ~mask[:, :-1]).any(), "a row is trained from its first token on"
        assert self.row_prompt.shape == mask.shape[:1]
        assert bool((self.row_prompt.diff() >= 0).all()), "rows are ordered by prompt"
        for name, tensor in self._row_tensors().items():
            by_row = name in ("expert_loads", "group_terms")
            is_fit = len(tensor) == len(mask) and (tensor.shape == mask.shape or by_row)
            assert is_fit, f"{name} must be [B, T]"

    @classmethod
    def build(cls, prompts: Sequence[Prompt], groups: Groups, trained: Tensor) -> Self:
        """Pad the completions of `groups` [P][G] to one width; `trained` [P, G] bool."""
        completions = [completion for group in groups for completion in group]
        owners = [index for index, group in enumerate(groups) for _ in group]
        keep = trained.flatten().tolist()
        own = [len(c) if k else 0 for c, k in zip(completions, keep, strict=True)]
        lengths = torch.tensor(own, dtype=torch.int64)
        ids = [c.token_ids for c in completions]
        logprobs = [c.sampling_logprobs for c in completions]
        completion_ids = _side_by_side(ids, torch.int64)
        return cls(
            prompts=tuple(prompts),
            row_prompt=torch.tensor(owners, dtype=torch.int64),
            completion_ids=completion_ids,
            completion_mask=torch.arange(completion_ids.shape[1]) < lengths[:, None],
            sampling_logprobs=_side_by_side(logprobs, torch.float32),
            experts=tuple(c.experts for c in completions),
        )

    def __len__(self) -> int:
        return len(self.row_prompt)

    def _row_tensors(self) -> dict[str, Tensor]:
        """Every field with numbers of each row by name, nearly all [B, T]."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "row_prompt"}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def lengths(self) -> Tensor:
        """[B] int64: trainable tokens of each row."""
        return self.completion_mask.sum(-1)

    def to(self, device: torch.device) -> Self:
        """Return the same rows with their token tensors on `device`; prompts are not moved."""
        moved: dict[str, Any] = {
            name: tensor.to(device) for name, tensor in self._row_tensors().items()
        }
        return replace(self, **moved)

    def select(self, rows: Tensor) -> Self:
        """Return the given rows, ordered by prompt, with only the prompts that they need."""
        used, row_prompt = torch.unique(self.row_prompt[rows], return_inverse=True)
        selected: dict[str, Any] = {
            "prompts": tuple(self.prompts[i] for i in used.tolist()),
            "row_prompt": row_prompt,
            "experts": tuple(self.experts[i] for i in rows.tolist()) if self.experts else (),
        }
        selected |= {name: tensor[rows] for name, tensor in self._row_tensors().items()}
        return replace(self, **selected)

    def micro_batches(self, max_tokens: int) -> Iterator[Self]:
        """Cut into forwards of at most `max_tokens` prompt and completion tokens.

        Groups stay whole and share a forward while they fit. A group above the budget is cut
        between completions, and its prompt is encoded once per part. A single completion that does
        not fit goes alone.
        """
        lengths, owners = self.lengths.tolist(), self.row_prompt.tolist()
        group_tokens = [len(prompt) for prompt in self.prompts]
        for owner, length in zip(owners, lengths, strict=True):
            group_tokens[owner] += length
        rows: list[int] = []
        tokens = 0
        for row, (owner, length) in enumerate(zip(owners, lengths, strict=True)):
            opens_group = not row or owner != owners[row - 1]
            # do not start a group in a forward that would have to cut it
            ahead = group_tokens[owner] if opens_group else length
            if rows and tokens + ahead > max_tokens:
                yield self.select(torch.tensor(rows))
                rows, tokens = [], 0
            tokens += length + (len(self.prompts[owner]) if opens_group or not rows else 0)
            rows.append(row)
        if rows:
            yield self.select(torch.tensor(rows))


@dataclass(frozen=True, eq=False)
class Batch(Rows):
    """Rows of one update, with all that an objective reads; everything per token is [B, T].

    `sampling_logprobs` are the engine's, `old_logprobs` the policy's before the step's first
    update, `ref_logprobs` the frozen reference's (None if no term needs them). `advantages` are
    constant along a row unless an estimator says otherwise. `step` numbers the step. `expert_loads`
    [B, E] say how often each expert was computed for the tokens of a row before the first update,
    the mean over the routers; None if no term needs them. `group_terms` [B, 2] float64 are the
    share of each row in the loss of its group and the slope in its score, None where no loss is of
    groups (`vlm_rl.objectives.group_losses`).
    """

    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    expert_loads: Tensor | None = field(default=None, kw_only=True)
    group_terms: Tensor | None = field(default=None, kw_only=True)
    step: int = 0

    @classmethod
    def of(
        cls,
        rows: Rows,
        *,
        old_logprobs: Tensor,
        ref_logprobs: Tensor | None,
        advantages: Tensor,
        expert_loads: Tensor | None = None,
        step: int = 0,
    ) -> "Batch":
        """Complete `rows`; `advantages` [P, G] or [B, T]."""
        if advantages.shape != rows.completion_mask.shape:
            advantages = advantages.reshape(len(rows), 1).expand(rows.completion_mask.shape)
        return cls(
            **{f.name: getattr(rows, f.name) for f in fields(rows)},
            old_logprobs=old_logprobs,
            ref_logprobs=ref_logprobs,
            advantages=advantages,
            expert_loads=expert_loads,
            step=step,
        )


def _side_by_side(rows: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return [B, T] with padding at the end."""
    if not rows:
        return torch.zeros(0, 1, dtype=dtype)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
