"""The records of a step: what its updates read, and what the step leaves."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vlm_rl.distributed.lockstep import Minibatch
from vlm_rl.objectives import Sequences
from vlm_rl.records import Batch, Rollout

Metrics = dict[str, float]


@dataclass(frozen=True, eq=False)
class StepBatch:
    """All that the updates of a step read.

    `rollout` are this rank's groups with their final rewards, `everyone` those of all ranks without
    images, `advantages` [P, G] those of `rollout`. `rows` are the completions of `rollout`, cut
    once into `minibatches`, one per update. `places` [P] int64: where the groups of `rollout` stand
    in `everyone`. Without `has_old`, `old_logprobs` are NaN: the only update takes them from its
    own forwards.
    """

    rollout: Rollout
    everyone: Rollout
    places: Tensor
    advantages: Tensor
    rows: Batch
    minibatches: Sequence[Minibatch[Batch]]
    has_old: bool


@dataclass(frozen=True, eq=False)
class Step:
    """What one step did, for callbacks.

    `dropped` are this rank's groups that a group filter left out, `any_dropped` says whether any
    rank has some. `rows` are this rank's completions as the updates saw them, `sequences` has an
    entry per update, of all ranks. `drift_alarm` is a line for a
    person, or None.
    """

    rollout: Rollout
    everyone: Rollout
    dropped: Rollout
    any_dropped: bool
    advantages: Tensor
    rows: Batch
    sequences: Sequence[Sequences]
    metrics: Metrics
    drift_alarm: str | None
