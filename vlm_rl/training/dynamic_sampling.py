"""Which sampled groups a step trains on, and what replaces the others: dynamic sampling.

A group that is all right or all wrong has no advantage of correctness and only dilutes the
gradient. DAPO (arXiv:2503.14476) drops such groups and samples further problems until the step is
full. Its published recipe samples three times the problems at once and throws away the rest; here
each further round asks for exactly as many new problems as groups are missing, so that no
group worth training on is lost. A filter may ask for more problems in the first round.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.distributed.gather import Places
from vlm_rl.metrics.rollout import all_right, all_wrong, rollout_statistics
from vlm_rl.metrics.statistic import Statistics, mean_of
from vlm_rl.parts import PartError, named, path_of
from vlm_rl.records import Prompt, Rollout

SampleRound = Callable[[Sequence[Prompt], int], Rollout]
"""Samples and judges a group per prompt; the second argument is the round, from 0."""

Refill = Callable[[int, Collection[str]], tuple[Prompt, int] | None]
"""Returns the first prompt at or after a position of an endless order whose uid is not among those
given, and the position after it; None if there is no other problem."""


def no_refill(position: int, used: Collection[str]) -> None:
    """Return no further problem: what is dropped is not replaced."""


class GroupFilter(ABC):
    """Chooses the groups that are worth training on.

    `drops_all_right`: a group in which all is right never stays. `oversamples`: it asks for more
    problems at once than a step needs.

    `max_rounds` bounds the rounds of generation in a step, its first included; published for DAPO:
    10. After the last the step trains on the groups that it has, and makes no update if it has
    none. 1 drops groups and replaces none.
    """

    drops_all_right: ClassVar[bool] = False
    oversamples: ClassVar[bool] = False

    def __init__(self, max_rounds: int = 10) -> None:
        if max_rounds < 1:
            raise ValueError(
                f"dynamic_sampling.max_rounds must be >= 1, got {max_rounds}; with 1 no dropped "
                "group is replaced, and dynamic_sampling null keeps every group"
            )
        self.max_rounds = max_rounds

    def check_refill(self, num_problems: int, prompts_per_step: int) -> None:
        """Raise ValueError if a data set has no problems to replace those of dropped groups."""
        if self.max_rounds > 1 and num_problems <= prompts_per_step:
            raise ValueError(
                f"data.prompts_per_step={prompts_per_step} takes all {num_problems} training "
                "problems at once, so that dynamic_sampling finds none for the groups it drops; "
                "lower it, or set dynamic_sampling.init_args.max_rounds to 1 to drop without "
                "replacing"
            )

    @abstractmethod
    def keep(self, rollout: Rollout) -> Tensor:
        """Return [P] bool: whether to train on each group, from that group alone."""

    def more_than(self, num_groups: int) -> int:
        """Return how many problems to sample in the first round beside those of a step, the same on
        every rank."""
        return 0

    def learn(self, keep_rate: float) -> None:  # noqa: B027
        """Change the state by a step that is trained on: the share of groups kept, of all ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


class MixedVerdicts(GroupFilter):
    """Keeps 0 < #correct < #scored (DAPO, arXiv:2503.14476, equation 11).

    Counts verdicts, not rewards: terms for length or form make the rewards of an all correct group
    differ, but not what it says about correctness. Completions that could not be scored do not
    count, so a group with fewer than two scored ones is dropped.
    """

    drops_all_right = True

    def keep(self, rollout: Rollout) -> Tensor:
        correct, scored = rollout.scores.correct.sum(1), rollout.scores.scored.sum(1)
        return (correct > 0) & (correct < scored)


class SomeCorrect(GroupFilter):
    """Keeps 0 < #correct: groups in which all is right stay, for methods that learn length from
    them. They have a signal only if the reward tells right answers apart."""

    def keep(self, rollout: Rollout) -> Tensor:
        return rollout.scores.correct.any(dim=1)


@dataclass(frozen=True, eq=False)
class Sampled:
    """The groups of a step that are kept for training and those that are dropped, on this rank.

    Either may be empty. `places` are those of the kept groups among all ranks'; `any_dropped` is of
    all ranks. `refill_position` is the place in the order of further problems that comes next.
    `keep_rate` is the share of groups that the filter kept, of all ranks. `statistics` are those of
    the sampling and of the dropped groups.
    """

    kept: Rollout
    dropped: Rollout
    places: Places
    any_dropped: bool
    refill_position: int
    keep_rate: float = 1.0
    statistics: Statistics = field(default_factory=dict)


@dataclass(frozen=True)
class _Progress:
    """What one rank has after a round: uids of the round, groups sampled and kept so far."""

    uids: Sequence[str]
    num_sampled: int
    num_kept: int


def sample_groups(
    prompts: Sequence[Prompt],
    sample: SampleRound,
    *,
    group_filter: GroupFilter | None,
    refill: Refill,
    refill_position: int,
) -> Sampled:
    """Sample a group per prompt; with a filter, as many groups as it keeps, or as many as there are
    after `max_rounds` or when the step has had every problem.

    The groups of a rank are in the order in which it sampled them. No problem is in a step twice,
    also not on two ranks. A rank that lacks groups gets new problems; all ranks sample in every
    round, some possibly nothing. Every rank encodes the new problems of all, so that their order is
    the same everywhere.
    """
    if group_filter is None:
        rollout = sample(prompts, 0)
        places = Places.of(ranks.gather(len(prompts)))
        return Sampled(rollout, rollout.select([]), places, False, refill_position)
    done = _sample_rounds(prompts, sample, group_filter, refill, refill_position)
    kept, progress = done.kept, done.progress
    rollout = Rollout.joined(done.rounds)
    num_kept = sum(of_rank.num_kept for of_rank in progress)
    num_sampled = sum(of_rank.num_sampled for of_rank in progress)
    if num_kept > sum(done.wanted):
        kept = _without_surplus(kept, sum(done.wanted))
        progress = [
            replace(of_rank, num_kept=number)
            for of_rank, number in zip(progress, ranks.gather(int(kept.sum())), strict=True)
        ]
    dropped = rollout.select((~kept).nonzero()[:, 0].tolist())
    return Sampled(
        kept=rollout.select(kept.nonzero()[:, 0].tolist()),
        dropped=dropped,
        places=Places.of([of_rank.num_kept for of_rank in progress]),
        any_dropped=sum(p.num_sampled - p.num_kept for p in progress) > 0,
        refill_position=done.refill_position,
        keep_rate=num_kept / max(num_sampled, 1),
        statistics=_statistics(rollout, kept, progress, len(done.rounds), sum(done.missing))
        | _dropped_statistics(dropped),
    )


@dataclass(frozen=True)
class _Rounds:
    """All rounds of a step: this rank's, with the groups that its filter keeps, and beside them the
    progress of every rank, the groups that it wanted and those that it lacks."""

    rounds: list[Rollout]
    kept: Tensor
    progress: list[_Progress]
    wanted: list[int]
    missing: list[int]
    refill_position: int


def _sample_rounds(
    prompts: Sequence[Prompt],
    sample: SampleRound,
    group_filter: GroupFilter,
    refill: Refill,
    position: int,
) -> _Rounds:
    wanted: list[int] = []
    used: set[str] = set()
    rounds: list[Rollout] = []
    kept = torch.zeros(0, dtype=torch.bool)
    if group_filter.oversamples:
        firsts = ranks.gather([prompt.uid for prompt in prompts])
        wanted = [len(uids) for uids in firsts]
        used.update(uid for uids in firsts for uid in uids)
        more, position = _draw(refill, position, used, group_filter.more_than(sum(wanted)))
        prompts = [*prompts, *_dealt(more, _evenly(len(more)))]
    while True:
        rounds.append(sample(prompts, len(rounds)))
        kept = torch.cat([kept, _keep(group_filter, rounds[-1])])
        own = _Progress([p.uid for p in prompts], len(kept), int(kept.sum()))
        progress = ranks.gather(own)
        wanted = wanted or [of_rank.num_sampled for of_rank in progress]
        used.update(uid for of_rank in progress for uid in of_rank.uids)
        missing = _missing(wanted, [of_rank.num_kept for of_rank in progress])
        new: list[Prompt] = []
        if len(rounds) < group_filter.max_rounds:
            new, position = _draw(refill, position, used, sum(missing))
        if not new:
            return _Rounds(rounds, kept, progress, wanted, missing, position)
        prompts = _dealt(new, missing)


def _keep(group_filter: GroupFilter, rollout: Rollout) -> Tensor:
    with named(group_filter, "dynamic_sampling"):
        keep = group_filter.keep(rollout)
    number = len(rollout.prompts)
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != (number,):
        raise PartError(
            f"dynamic_sampling {path_of(group_filter)} must return one bool per group, a tensor of "
            f"shape [{number}], got {getattr(keep, 'dtype', type(keep).__name__)}"
        )
    return keep


def _draw(refill: Refill, position: int, used: set[str], number: int) -> tuple[list[Prompt], int]:
    """Draw up to `number` prompts from `position` on and add them to `used`; return them and the
    position after them."""
    prompts: list[Prompt] = []
    while len(prompts) < number and (drawn := refill(position, used)) is not None:
        prompt, position = drawn
        prompts.append(prompt)
        used.add(prompt.uid)
    return prompts, position


def _missing(wanted: Sequence[int], kept: Sequence[int]) -> list[int]:
    """Return how many groups each rank still samples; what others have too many counts."""
    lacking = [max(0, number - own) for number, own in zip(wanted, kept, strict=True)]
    spare = sum(lacking) - max(0, sum(wanted) - sum(kept))
    for place in reversed(range(len(lacking))):
        taken = min(spare, lacking[place])
        lacking[place] -= taken
        spare -= taken
    return lacking


def _without_surplus(kept: Tensor, wanted: int) -> Tensor:
    """Return which of this rank's groups are among the first `wanted` that all ranks keep, in the
    order in which they were dealt."""
    of_ranks = ranks.gather(kept.tolist())
    order = ranks.round_robin([[(rank, flag) for flag in own] for rank, own in enumerate(of_ranks)])
    own, before = [], 0
    for rank, flag in order:
        stays = flag and before < wanted
        before += stays
        if rank == ranks.rank():
            own.append(stays)
    return torch.tensor(own, dtype=torch.bool)


def _evenly(number: int) -> list[int]:
    """Share `number` among the ranks, the first ones one more."""
    size = ranks.world_size()
    return [number // size + (rank < number % size) for rank in range(size)]


def _dealt(new: Sequence[Prompt], missing: Sequence[int]) -> list[Prompt]:
    """Deal new problems in turn to the ranks that lack groups; return those of this rank."""
    owners = ranks.round_robin([[owner] * number for owner, number in enumerate(missing)])
    own = ranks.rank()
    return [prompt for prompt, owner in zip(new, owners, strict=False) if owner == own]


def _dropped_statistics(dropped: Rollout) -> Statistics:
    if not dropped.prompts:
        return {}
    return rollout_statistics(dropped, torch.zeros_like(dropped.scores.total))


def _statistics(
    rollout: Rollout, kept: Tensor, progress: Sequence[_Progress], num_rounds: int, missing: int
) -> Statistics:
    """Count `sampling/...` over all ranks; fractions are of all the groups sampled."""
    scores = rollout.scores
    num_kept = sum(of_rank.num_kept for of_rank in progress)
    return {
        "sampling/rounds": mean_of(torch.tensor(num_rounds)),
        "sampling/prompts_spent": mean_of(torch.tensor(sum(p.num_sampled for p in progress))),
        "sampling/missing_groups": mean_of(torch.tensor(missing)),
        "sampling/empty_step": mean_of(torch.tensor(num_kept == 0)),
        "sampling/dropped_all_right_frac": mean_of(all_right(scores) & ~kept),
        "sampling/dropped_all_wrong_frac": mean_of(all_wrong(scores) & ~kept),
        "sampling/trained_accuracy": mean_of(scores.correct[kept], scores.scored[kept]),
        "sampling/trained_length_tokens": mean_of(rollout.lengths[kept]),
    }
