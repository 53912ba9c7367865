"""How fast a step was, and how much of its work the group-shared forward saved.

All names begin with `time/`, as all do that differ from machine to machine:

    time/sampled_tokens_per_second   tokens of all completions over the seconds of the rollout
    time/trained_tokens_per_second   trained tokens over the seconds of the whole step
    time/positions_frac              token positions of the updates' forwards over those that a
                                     row for each completion would need, its prompt repeated

Tokens are those of all ranks, seconds those of rank 0.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch

from vlm_rl import ranks
from vlm_rl.metrics.statistic import Statistics
from vlm_rl.records import Rollout, Rows, Statistic


def speed_statistics(
    rollouts: Sequence[Rollout], forwards: Iterable[Rows], seconds: Mapping[str, float]
) -> Statistics:
    """Return the measures of a step from what this rank sampled, the forwards of its updates, and
    the `seconds` of the step by activity."""
    sampled = sum(int(rollout.lengths.sum()) for rollout in rollouts)
    trained = computed = repeated = 0
    for forward in forwards:
        prompts = torch.tensor([len(prompt) for prompt in forward.prompts])
        lengths = forward.lengths.cpu()
        trained += int(lengths.sum())
        computed += int(prompts.sum() + lengths.sum())
        repeated += int((prompts[forward.row_prompt] + lengths)[lengths > 0].sum())
    return {
        "time/sampled_tokens_per_second": _rate(sampled, seconds.get("rollout", 0.0)),
        "time/trained_tokens_per_second": _rate(trained, sum(seconds.values())),
        "time/positions_frac": Statistic(torch.tensor(computed), torch.tensor(repeated)),
    }


def _rate(tokens: int, seconds: float) -> Statistic:
    """Count the seconds of rank 0 alone: the ranks work at the same time."""
    return Statistic(torch.tensor(tokens), torch.tensor(seconds if ranks.rank() == 0 else 0.0))
