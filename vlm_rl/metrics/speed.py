"""How fast a step was, how well it used the device, and what the group-shared forward saved.

All names begin with `time/`, as all do that differ from machine to machine:

    time/sampled_tokens_per_second   tokens of all completions over the seconds of the rollout
    time/trained_tokens_per_second   trained tokens over the seconds of the whole step
    time/positions_frac              token positions of the updates' forwards over those that a
                                     row for each completion would need, its prompt repeated
    time/padding_frac                padding in the attention of these forwards over all that it
                                     computes; nothing else in a packed row is padding, but in
                                     recurrences, where it is not counted
    time/model_tflop_per_second      what the mathematics of a step needs (`metrics.flops`) over its
                                     seconds, in 1e12 FLOPs a second and rank
    time/mfu, time/update_mfu        that of the step, and of the updates alone, over the dense
                                     bfloat16 peak of the device, if it is known

Tokens are those of all ranks, seconds those of rank 0.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch

from vlm_rl import ranks
from vlm_rl.metrics.statistic import Statistics
from vlm_rl.model.attention import padding_in
from vlm_rl.model.packing import groups_of
from vlm_rl.records import Rollout, Rows, Statistic


def speed_statistics(
    rollouts: Sequence[Rollout], forwards: Iterable[Rows], seconds: Mapping[str, float]
) -> Statistics:
    """Return the measures of a step from what this rank sampled, the forwards of its updates, and
    the `seconds` of the step by activity."""
    sampled = sum(int(rollout.lengths.sum()) for rollout in rollouts)
    trained = computed = repeated = padding = 0
    for forward in forwards:
        groups = groups_of(forward)
        trained += sum(sum(group.completions) for group in groups)
        computed += sum(group.size for group in groups)
        repeated += sum(group.prompt + n for group in groups for n in group.completions)
        padding += padding_in(groups, forward.completion_mask.device)
    return {
        "time/sampled_tokens_per_second": _rate(sampled, seconds.get("rollout", 0.0)),
        "time/trained_tokens_per_second": _rate(trained, sum(seconds.values())),
        "time/positions_frac": _statistic(computed, repeated),
        "time/padding_frac": _statistic(padding, padding + computed),
    }


def use_statistics(
    flops: int, update_flops: int, seconds: Mapping[str, float], peak_tflops: float | None
) -> Statistics:
    """Return how well a step used its devices: the FLOPs of this rank, in all and in the updates,
    over the `seconds` by activity and the peak of a device."""
    spent, updating = (
        ranks.world_size() * s for s in (sum(seconds.values()), seconds.get("update", 0.0))
    )
    statistics = {"time/model_tflop_per_second": _rate(flops / 1e12, spent)}
    if peak_tflops is not None:
        statistics["time/mfu"] = _rate(flops / 1e12, spent * peak_tflops)
        statistics["time/update_mfu"] = _rate(update_flops / 1e12, updating * peak_tflops)
    return statistics


def _rate(amount: float, seconds: float) -> Statistic:
    """Count the seconds of rank 0 alone: the ranks work at the same time."""
    return _statistic(amount, seconds if ranks.rank() == 0 else 0.0)


def _statistic(total: float, count: float) -> Statistic:
    return Statistic(*(torch.tensor(value, dtype=torch.float64) for value in (total, count)))
