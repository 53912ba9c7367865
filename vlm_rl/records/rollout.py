"""What is sampled: prompts, completions, and their rewards."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from vlm_rl.records.problem import Problem, Verdict

FinishReason = Literal["stop", "length"]


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
    `entropies` [T] float32 are the policy's, only where a reward asks for them. `thinking_tokens`
    is how many tokens there are up to and with the first `</think>`; None without one.
    """

    token_ids: Tensor
    sampling_logprobs: Tensor
    finish_reason: FinishReason
    text: str
    experts: Tensor | None = None
    logprobs: Tensor | None = None
    entropies: Tensor | None = None
    thinking_tokens: int | None = None

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
    what terms tell beside their values, NaN where they do not apply. `rules` [P][G] say what
    decided each verdict; none at all if no term says.
    """

    terms: Mapping[str, Tensor]
    total: Tensor
    verdicts: Sequence[Sequence[Verdict]]
    weights: Mapping[str, float]
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    rules: Sequence[Sequence[str]] = ()

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

    def plus(self, name: str, values: Tensor, weight: float) -> "Scores":
        """Return these with one more term, `weight` times `values` [P, G].

        What is not scored keeps a total of 0.
        """
        return replace(
            self,
            terms={**self.terms, name: values},
            weights={**self.weights, name: weight},
            total=torch.where(self.scored, self.total + weight * values, 0.0),
        )

    def _by_verdict(self, says: Callable[[Verdict], bool]) -> Tensor:
        values = [[says(verdict) for verdict in row] for row in self.verdicts]
        return torch.tensor(values, dtype=torch.bool).reshape(self.total.shape)


@dataclass(frozen=True, eq=False)
class Rollout:
    """The sampled groups of a step, with their rewards. `step` numbers it, from 0."""

    prompts: Sequence[Prompt]
    groups: Groups
    scores: Scores
    step: int = 0

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
        rules = [scores.rules[row] for row in groups] if scores.rules else ()
        return Rollout(
            [self.prompts[row] for row in groups],
            [self.groups[row] for row in groups],
            Scores(terms, scores.total[rows], verdicts, scores.weights, factors, measures, rules),
            self.step,
        )

    @classmethod
    def joined(cls, rollouts: Sequence["Rollout"]) -> "Rollout":
        """Return the groups of all, one rollout after the other."""
        parts = [rollout for rollout in rollouts if rollout.prompts] or rollouts[:1]
        scores = [part.scores for part in parts]
        first = scores[0]
        total = torch.cat([s.total for s in scores])
        verdicts = [row for s in scores for row in s.verdicts]
        rules = [row for s in scores for row in s.rules] if all(s.rules for s in scores) else ()
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
            Scores(terms, total, verdicts, first.weights, factors, measures, rules),
            rollouts[0].step,
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
