"""The records that flow through a training step: Problem -> Prompt -> Completion -> Rows, Batch.

Each is frozen, built complete, and checks itself. Shape letters, here and everywhere: `P` problems,
`G` completions per problem (the group), `B` rows (P*G, or a slice of them), `T` completion tokens
(padded), `S` prompt tokens, `V` vocabulary.
"""

import enum
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor

IMAGE_MARK = "<image>"
"""Where an image stands in the text of a question."""

THINK = "<think>"
"""What opens the thinking; a chat template may write it at the end of every prompt."""

AnswerType = Literal[
    "number",
    "number_unit",
    "percent",
    "latex",
    "expression",
    "interval",
    "set",
    "tuple",
    "matrix",
    "ratio",
    "time",
    "list",
    "text",
    "choice",
]
OtherAnswerType = Literal["box", "point", "cell", "json", "pattern", "free_text"]
"""Of answers that the verifier does not check; reward terms of their own do."""
GoldType = AnswerType | OtherAnswerType
BoxSpace = Literal["original", "resized", "relative_1", "relative_1000"]
"""What coordinates count: pixels of the upright original or of what the model sees of it, or parts
of its width and height, the whole of which is 1 or 1000."""
FinishReason = Literal["stop", "length"]


class Verdict(enum.StrEnum):
    """The result of checking an answer. Only the first three say something about the policy."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def scored(self) -> bool:
        """Whether the checker worked. If not, the completion enters no statistic and no loss."""
        return self not in (Verdict.TIMEOUT, Verdict.ERROR)


class ImageSizes(NamedTuple):
    """Width and height in pixels of an image, upright, and of what the model sees of it."""

    original: tuple[int, int]
    resized: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Problem:
    """A row of a data set. `uid` is stable over runs, because it keys all per-problem state.

    Any of `alternatives` counts as `answer` does. `system` replaces the run's own system message.
    `box_space` is that of boxes and points in the answer. The problem of a prompt has the `sizes`
    of its images, others have none.
    """

    uid: str
    question: str
    answer: str
    images: tuple[bytes | Path, ...] = ()
    answer_type: GoldType | None = None
    choices: tuple[str, ...] | None = None
    unit: str | None = None
    tolerance: Mapping[str, float] | None = None
    answer_style: str | None = None
    source: str = ""
    task: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    system: str | None = None
    box_space: BoxSpace | None = None
    sizes: tuple[ImageSizes, ...] = ()

    def __post_init__(self) -> None:
        for name in ("uid", "question", "answer"):
            if not getattr(self, name).strip():
                raise ValueError(f"problem {self.uid!r}: {name} is empty")


@dataclass(frozen=True, eq=False)
class Prompt:
    """A problem as both the policy and the rollout engine see it; made once, never re-processed.

    `token_ids` [S] int64 hold one image placeholder per visual token, `unexpanded_ids` one per
    image. `pixel_values` [patches, patch_dim] float32 and `grid_thw` [images, 3] int64 are None
    without images. `positions` [3, S] int64 are the time, height and width rotary positions.
    `images` are the resized RGB images that `pixel_values` were cut from. `opening` is `<think>` if
    the prompt ends with it, so that completions start inside the thinking; else empty.
    """

    problem: Problem
    token_ids: Tensor
    unexpanded_ids: Tensor
    positions: Tensor
    pixel_values: Tensor | None
    grid_thw: Tensor | None
    images: tuple[Image.Image, ...]
    opening: str = ""

    def __post_init__(self) -> None:
        assert self.token_ids.dtype == torch.int64
        assert self.positions.shape == (3, len(self))
        assert (self.pixel_values is None) == (self.grid_thw is None) == (not self.images)
        if self.pixel_values is not None and self.grid_thw is not None:
            assert len(self.grid_thw) == len(self.images)
            assert int(self.grid_thw.prod(-1).sum()) == len(self.pixel_values)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def uid(self) -> str:
        return self.problem.uid

    @cached_property
    def image_keys(self) -> tuple[bytes, ...]:
        """A digest of what the vision tower sees of each image; equal images have equal ones."""
        if self.pixel_values is None or self.grid_thw is None:
            return ()
        parts = self.pixel_values.split(self.grid_thw.prod(-1).tolist())
        return tuple(
            hashlib.blake2b(grid.numpy().tobytes() + pixels.numpy().tobytes()).digest()
            for grid, pixels in zip(self.grid_thw, parts, strict=True)
        )

    @property
    def next_position(self) -> int:
        """The rotary position of the first completion token, the same on all three axes."""
        return int(self.positions.max()) + 1


@dataclass(frozen=True, eq=False)
class Completion:
    """One sampled answer. `token_ids` [T] int64 include the end-of-turn token if it was sampled.

    `sampling_logprobs` [T] float32 are the engine's own, at the temperature that sampled. `text`
    is the opening of the prompt and then the tokens without special ones. An empty completion is
    legal. `experts` [S + T - 1, L, K] are those that the engine's routers chose for the prompt and
    for every token but the last, which it does not compute; None if it does not say. `logprobs` and
    `entropies` [T] float32 are the policy's, only where a reward asks for them.
    """

    token_ids: Tensor
    sampling_logprobs: Tensor
    finish_reason: FinishReason
    text: str
    experts: Tensor | None = None
    logprobs: Tensor | None = None
    entropies: Tensor | None = None

    def __post_init__(self) -> None:
        ids, logprobs = self.token_ids, self.sampling_logprobs
        if not (ids.ndim == 1 and ids.dtype == torch.int64):
            raise ValueError(f"token_ids must be int64 [T], got {ids.dtype} {list(ids.shape)}")
        if not (logprobs.shape == ids.shape and logprobs.dtype == torch.float32):
            raise ValueError(
                f"sampling_logprobs must be float32 {list(ids.shape)}, as token_ids are long, got "
                f"{logprobs.dtype} {list(logprobs.shape)}"
            )

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


Groups = Sequence[Sequence[Completion]]
"""[P][G]: the completions of each problem, in the order of the problems."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Rewards of one rollout, all [P, G] float64.

    `terms` hold each reward term before its weight in `weights`; `total` is the weighted sum times
    the `factors`. `verdicts` [P][G] say what is right, and what could not be scored. `measures` are
    what terms tell beside their values, NaN where they do not apply.
    """

    terms: Mapping[str, Tensor]
    total: Tensor
    verdicts: Sequence[Sequence[Verdict]]
    weights: Mapping[str, float]
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    measures: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tensor in (self.total, *self.parts.values(), *self.measures.values()):
            assert tensor.dtype == torch.float64
            assert tensor.shape == self.total.shape
        assert self.weights.keys() == self.terms.keys()
        assert [len(row) for row in self.verdicts] == [self.total.shape[1]] * len(self.total)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Terms and factors by name."""
        return {**self.terms, **self.factors}

    @property
    def scored(self) -> Tensor:
        """[P, G] bool: whether nothing that scores timed out or failed."""
        return self._by_verdict(lambda verdict: verdict.scored)

    @property
    def correct(self) -> Tensor:
        """[P, G] bool."""
        return self._by_verdict(lambda verdict: verdict is Verdict.CORRECT)

    def _by_verdict(self, says: Callable[[Verdict], bool]) -> Tensor:
        values = [[says(verdict) for verdict in row] for row in self.verdicts]
        return torch.tensor(values, dtype=torch.bool).reshape(self.total.shape)


@dataclass(frozen=True, eq=False)
class Rollout:
    """The sampled groups of a step, with their rewards."""

    prompts: Sequence[Prompt]
    groups: Groups
    scores: Scores

    @property
    def lengths(self) -> Tensor:
        """[P, G] int64: tokens of each completion."""
        lengths = [[len(c) for c in group] for group in self.groups]
        return torch.tensor(lengths, dtype=torch.int64).reshape(self.scores.total.shape)

    @property
    def truncated(self) -> Tensor:
        """[P, G] bool."""
        truncated = [[c.truncated for c in group] for group in self.groups]
        return torch.tensor(truncated, dtype=torch.bool).reshape(self.scores.total.shape)

    @classmethod
    def empty(cls, group_size: int) -> "Rollout":
        """Return a rollout without groups, for a rank with nothing to sample."""
        total = torch.zeros(0, group_size, dtype=torch.float64)
        return cls([], [], Scores({}, total, [], {}))

    def select(self, groups: Sequence[int]) -> "Rollout":
        """Return the groups of these indices, in their order."""
        rows, scores = torch.tensor(groups, dtype=torch.int64), self.scores
        verdicts = [scores.verdicts[row] for row in groups]
        terms = {name: term[rows] for name, term in scores.terms.items()}
        factors = {name: factor[rows] for name, factor in scores.factors.items()}
        measures = {name: measure[rows] for name, measure in scores.measures.items()}
        return Rollout(
            [self.prompts[row] for row in groups],
            [self.groups[row] for row in groups],
            Scores(terms, scores.total[rows], verdicts, scores.weights, factors, measures),
        )

    @classmethod
    def joined(cls, rollouts: Sequence["Rollout"]) -> "Rollout":
        """Return the groups of all, one rollout after the other."""
        parts = [rollout for rollout in rollouts if rollout.prompts] or rollouts[:1]
        scores = [part.scores for part in parts]
        first = scores[0]
        total = torch.cat([s.total for s in scores])
        verdicts = [row for s in scores for row in s.verdicts]
        terms = {name: torch.cat([s.terms[name] for s in scores]) for name in first.terms}
        factors = {name: torch.cat([s.factors[name] for s in scores]) for name in first.factors}
        nothing = [torch.full_like(s.total, torch.nan) for s in scores]
        measures = {
            name: torch.cat([s.measures.get(name, n) for s, n in zip(scores, nothing, strict=True)])
            for name in dict.fromkeys(name for s in scores for name in s.measures)
        }
        return cls(
            [prompt for part in parts for prompt in part.prompts],
            [group for part in parts for group in part.groups],
            Scores(terms, total, verdicts, first.weights, factors, measures),
        )


@dataclass(frozen=True)
class Statistic:
    """A metric as a sum and a count, both scalars.

    These add over micro-batches and ranks, unlike means. The count of a fraction is its
    denominator.
    """

    sum: Tensor
    count: Tensor

    def __add__(self, other: "Statistic") -> "Statistic":
        return Statistic(self.sum + other.sum, self.count + other.count)


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
            is_fit = len(tensor) == len(mask) and (
                tensor.shape == mask.shape or name == "expert_loads"
            )
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
    the mean over the routers; None if no term needs them.
    """

    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    expert_loads: Tensor | None = field(default=None, kw_only=True)
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
