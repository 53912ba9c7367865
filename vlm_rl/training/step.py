"""The records of a step: what its updates read, and what the step leaves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from vlm_rl.distributed.lockstep import Cut, Minibatch
from vlm_rl.metrics.routing import RouterTally
from vlm_rl.objectives import Sequences, TokenEffects
from vlm_rl.records import Batch, Rollout
from vlm_rl.training.update import Update

Metrics = dict[str, float]


@dataclass(frozen=True, eq=False)
class StepBatch:
    """All that the updates of a step read.

    `rollout` are this rank's groups with their final rewards, `everyone` those of all ranks without
    images, `advantages` [P, G] those of `rollout`. `rows` are the completions of `rollout`, which
    `cut` has cut once into `minibatches`, one per update. `places` [P] int64: where the groups of
    `rollout` stand in `everyone`. `old_logprobs` are NaN in rows that no forward has; without
    `has_old` in all, because the only update takes them from its own forwards. `routers` are those
    of the forwards before the updates.
    """

    rollout: Rollout
    everyone: Rollout
    places: Tensor
    advantages: Tensor
    rows: Batch
    cut: Cut
    minibatches: Sequence[Minibatch[Batch]]
    has_old: bool
    routers: RouterTally

    def rows_with_old(self, of_forwards: Sequence[Tensor]) -> Batch:
        """Complete `rows` with the `old_logprobs` of each forward."""
        return replace(self.rows, old_logprobs=self.cut.joined(self.rows, of_forwards))

    def tokens_of_last(self, updates: Sequence[Update]) -> TokenEffects:
        """Return [B, T] of what the last of `updates` did to `rows`; NaN in rows not in it."""
        last = self.cut.last_update()
        of_forwards = updates[-1].tokens if updates else ()
        columns = zip(*of_forwards, strict=True) if of_forwards else [()] * 3
        return TokenEffects(*(last.joined(self.rows, column) for column in columns))


@dataclass(frozen=True, eq=False)
class Step:
    """What one step did, for callbacks.

    `dropped` are this rank's groups that a group filter left out, `any_dropped` says whether any
    rank has some. `rows` are this rank's completions as the updates saw them, with
    `old_logprobs` of NaN in those that no forward had. `sequences` has an entry per update: what
    was in its forwards, of all ranks. `tokens` [B, T] are what the last update did to `rows`, NaN
    in rows not in it. `drift_alarm` is a line for a person, or None.
    """

    rollout: Rollout
    everyone: Rollout
    dropped: Rollout
    any_dropped: bool
    advantages: Tensor
    rows: Batch
    sequences: Sequence[Sequences]
    tokens: TokenEffects
    metrics: Metrics
    drift_alarm: str | None
