"""The metrics of a step: what its rollout, its updates and its clock say, reduced over ranks."""

from collections.abc import Sequence

import torch

from vlm_rl import ranks
from vlm_rl.metrics.rollout import rollout_statistics
from vlm_rl.metrics.speed import speed_statistics
from vlm_rl.metrics.statistic import add_up, means
from vlm_rl.records import Statistic
from vlm_rl.training.clock import Clock
from vlm_rl.training.dynamic_sampling import Sampled
from vlm_rl.training.step import Metrics, StepBatch
from vlm_rl.training.update import Update


def step_metrics(
    sampled: Sampled,
    batch: StepBatch,
    updates: Sequence[Update],
    *,
    engine_restarts: int,
    clock: Clock,
) -> Metrics:
    """Return the metrics of a step over all ranks, and the seconds of this rank."""
    statistics = sampled.statistics
    if batch.rollout.prompts:
        of_rollout = rollout_statistics(batch.rollout, batch.advantages)
        statistics = add_up(statistics, of_rollout)
    for update in updates:
        statistics = add_up(statistics, update.statistics)
    # of all ranks, counted once: the mean is their sum
    restarts = Statistic(torch.tensor(engine_restarts), torch.tensor(ranks.rank() == 0))
    statistics = add_up(statistics, {"rollout/engine_restarts": restarts})
    rollouts = [batch.rollout, sampled.dropped]
    forwards = [forward for part in batch.minibatches for forward in part.forwards]
    statistics = add_up(statistics, speed_statistics(rollouts, forwards, clock.lap))
    return means(statistics) | clock.lap_metrics()
