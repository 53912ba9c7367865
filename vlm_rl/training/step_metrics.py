"""The metrics of a step: what its rollout, its updates and its meter say, reduced over ranks."""

from collections.abc import Sequence

import torch

from vlm_rl import ranks
from vlm_rl.metrics.pushes import push_metrics
from vlm_rl.metrics.rollout import rollout_statistics
from vlm_rl.metrics.routing import load_metrics
from vlm_rl.metrics.statistic import add_up, means
from vlm_rl.records import Statistic
from vlm_rl.rollout import Engine
from vlm_rl.training.dynamic_sampling import Sampled
from vlm_rl.training.meter import Meter
from vlm_rl.training.step import Metrics, StepBatch
from vlm_rl.training.update import Update

SAMPLED_TOKENS = "rollout/sampled_tokens"
"""Here those of the step; the run adds them up."""


def step_metrics(
    sampled: Sampled,
    batch: StepBatch,
    updates: Sequence[Update],
    *,
    engine: Engine,
    meter: Meter,
) -> Metrics:
    """Return the metrics of a step over all ranks, and the seconds of this rank."""
    statistics = sampled.statistics
    if batch.rollout.prompts:
        of_rollout = rollout_statistics(batch.rollout, batch.advantages)
        statistics = add_up(statistics, of_rollout)
    for update in updates:
        statistics = add_up(statistics, update.statistics)
        statistics = add_up(statistics, update.routers.entropy)
    # at the weights of the engine: of a single update, its own forwards
    before = batch.routers if batch.has_old or not updates else updates[0].routers
    statistics = add_up(statistics, before.drift)
    rollouts = [batch.rollout, sampled.dropped]
    tokens = sum(int(rollout.lengths.sum()) for rollout in rollouts)
    sums = {"rollout/engine_restarts": engine.restarts, SAMPLED_TOKENS: tokens}
    # of all ranks, counted once: the mean is their sum
    once = torch.tensor(ranks.rank() == 0)
    own = {name: Statistic(torch.tensor(value), once) for name, value in sums.items()}
    statistics = add_up(statistics, own)
    cost = meter.statistics(rollouts, batch, sampled_here=not engine.is_elsewhere)
    loads = load_metrics([update.routers for update in updates])
    pushes = push_metrics(
        batch.rollout.lengths,
        batch.advantages,
        (batch.rows.lengths > 0).reshape(batch.advantages.shape),
        [update.sequences for update in updates],
    )
    return means(add_up(statistics, cost)) | loads | pushes | meter.metrics()
