"""Which sampled groups a step trains on, and what replaces the others: dynamic sampling.

A group that is all right or all wrong has no advantage of correctness and only thins the gradient
out. DAPO (arXiv:2503.14476) drops such groups and samples further problems until the step is full.
Its published recipe samples three times the problems at once and throws away what is left over;
here each further round asks for exactly as many new problems as groups are missing, so that no
group worth training on is lost.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.metrics.rollout import all_right, all_wrong, rollout_statistics
from vlm_rl.metrics.statistic import Statistics, mean_of
from vlm_rl.objectives import Sequences
from vlm_rl.records import Prompt, Rollout

SampleRound = Callable[[Sequence[Prompt], int], Rollout]
"""Samples and judges a group per prompt; the second argument is the round, from 0."""

Refill = Callable[[int, Collection[str]], tuple[Prompt, int] | None]
"""The first prompt at or after a position of an endless order whose uid is not among those given,
and the position after it; None where there is no other problem."""


def no_refill(position: int, used: Collection[str]) -> None:
    """No further problems: what is dropped is not replaced."""


class GroupFilter(ABC):
    """Chooses the groups that are worth training on.

    `max_rounds` bounds the rounds of generation in a step, its first included; published for DAPO:
    10. After the last the step trains on the groups that it has, and makes no update where it has
    none. 1 drops groups and replaces none.
    """

    def __init__(self, max_rounds: int = 10) -> None:
        if max_rounds < 1:
            raise ValueError(
                f"dynamic_sampling.max_rounds must be >= 1, got {max_rounds}; with 1 no dropped "
                "group is replaced, and dynamic_sampling null keeps every group"
            )
        self.max_rounds = max_rounds

    @abstractmethod
    def keep(self, rollout: Rollout) -> Tensor:
        """[P] bool: whether to train on each group, from that group alone."""


class MixedVerdicts(GroupFilter):
    """Keeps 0 < #correct < #scored (DAPO, arXiv:2503.14476, equation 11).

    Counts verdicts, not rewards: terms for length or form make the rewards of an all correct group
    differ, but not what it says about correctness. Completions that could not be scored do not
    count, so a group with fewer than two scored ones is dropped.
    """

    def keep(self, rollout: Rollout) -> Tensor:
        correct, scored = rollout.scores.correct.sum(1), rollout.scores.scored.sum(1)
        return (correct > 0) & (correct < scored)


@dataclass(frozen=True, eq=False)
class Sampled:
    """What a step sampled: the groups that it trains on and those that it drops, either may be
    empty. `refill_position` is the place in the order of further problems that comes next.
    `statistics` are those of the sampling and of the dropped groups."""

    trained: Rollout
    dropped: Rollout
    refill_position: int
    statistics: Statistics = field(default_factory=dict)


def sample_groups(
    prompts: Sequence[Prompt],
    sample: SampleRound,
    *,
    group_filter: GroupFilter | None,
    refill: Refill,
    refill_position: int,
) -> Sampled:
    """A group per prompt; with a filter as many that it keeps, or as many as were found: it ends
    after `max_rounds`, or where the step has had every problem.

    The groups of a process are in the order in which it sampled them, and no problem is in a step
    twice, also not on two processes. A process that lacks groups gets new problems; all sample in
    every round, some possibly nothing. Every process encodes the new problems of all: that keeps
    the order one.
    """
    if group_filter is None:
        rollout = sample(prompts, 0)
        return Sampled(rollout, rollout.select([]), refill_position)
    wanted = len(prompts)
    used = {uid for uids in ranks.gather([p.uid for p in prompts]) for uid in uids}
    rounds: list[Rollout] = []
    kept = torch.zeros(0, dtype=torch.bool)
    more = True
    while more:
        rounds.append(sample(prompts, len(rounds)))
        kept = torch.cat([kept, group_filter.keep(rounds[-1])])
        missing = ranks.gather(wanted - int(kept.sum()))
        if len(rounds) == group_filter.max_rounds:
            break
        found: list[Prompt] = []
        while len(found) < sum(missing) and (new := refill(refill_position, used)) is not None:
            prompt, refill_position = new
            found.append(prompt)
            used.add(prompt.uid)
        owners = ranks.round_robin([[owner] * number for owner, number in enumerate(missing)])
        own = ranks.rank()
        prompts = [p for p, owner in zip(found, owners, strict=False) if owner == own]
        more = bool(found)
    rollout = Rollout.joined(rounds)
    trained = rollout.select(kept.nonzero()[:, 0].tolist())
    dropped = rollout.select((~kept).nonzero()[:, 0].tolist())
    statistics = _statistics(rollout, kept, num_rounds=len(rounds), missing=sum(missing))
    if dropped.prompts:
        statistics |= rollout_statistics(dropped, torch.zeros_like(dropped.scores.total))
    return Sampled(trained, dropped, refill_position, statistics)


def of_all_processes(rollout: Rollout) -> Rollout:
    """The groups of every process, without their pictures, taken from the processes in turn: where
    none was dropped that is the order of the step's prompts.

    `ranks.own_places` says which of them are this process's.
    """
    if ranks.count() == 1:
        return rollout
    parts = ranks.gather(replace(rollout, prompts=[_plain(p) for p in rollout.prompts]))
    offsets = accumulate((len(part.prompts) for part in parts), initial=0)
    indices = [[at + i for i in range(len(p.prompts))] for p, at in zip(parts, offsets)]  # noqa: B905
    return Rollout.joined(parts).select(ranks.round_robin(indices))


def sequences_of_all_processes(own: Sequences) -> Sequences:
    """The rows of every process, by rank, on the CPU; with one process its own as they are."""
    if ranks.count() == 1:
        return own
    return Sequences.joined(ranks.gather(Sequences(*(column.cpu() for column in own))))


def _plain(prompt: Prompt) -> Prompt:
    problem = replace(prompt.problem, images=())
    return replace(prompt, problem=problem, pixel_values=None, grid_thw=None, images=())


def _statistics(rollout: Rollout, kept: Tensor, *, num_rounds: int, missing: int) -> Statistics:
    """`sampling/...` over all processes; fractions are of all the groups sampled."""
    scores = rollout.scores
    spent, found = map(sum, zip(*ranks.gather((len(kept), int(kept.sum()))), strict=True))
    return {
        "sampling/rounds": mean_of(torch.tensor(num_rounds)),
        "sampling/prompts_spent": mean_of(torch.tensor(spent)),
        "sampling/missing_groups": mean_of(torch.tensor(missing)),
        "sampling/empty_step": mean_of(torch.tensor(found == 0)),
        "sampling/dropped_all_right_frac": mean_of(all_right(scores) & ~kept),
        "sampling/dropped_all_wrong_frac": mean_of(all_wrong(scores) & ~kept),
        "sampling/trained_accuracy": mean_of(scores.correct[kept], scores.scored[kept]),
        "sampling/trained_length_tokens": mean_of(rollout.lengths[kept]),
    }
