"""Let a part change what a step has sampled, and judge again what it has changed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlm_rl.edits import RolloutEdit
from vlm_rl.metrics.statistic import Statistics, add_up, mean_of
from vlm_rl.records import Groups, Prompt, Rollout


class Editing:
    """Edits the rounds of one step; `statistics` are of all of them, on this rank.

    `apply` returns the groups that an edit makes of a rollout, `judge` scores groups. Every rank
    calls `judge`, also with nothing to judge: a reward may read the policy, whose forwards need all
    ranks.
    """

    def __init__(
        self,
        edit: RolloutEdit | None,
        apply: Callable[[RolloutEdit, Rollout], Groups],
        judge: Callable[[Sequence[Prompt], Groups], Rollout],
    ) -> None:
        self.statistics: Statistics = {}
        self._edit = edit
        self._apply = apply
        self._judge = judge

    def __call__(self, rollout: Rollout) -> Rollout:
        """Return the groups of a round, edited, in their order."""
        if self._edit is None:
            return rollout
        groups = self._apply(self._edit, rollout)
        is_edited = _differ(rollout, groups)
        counts = {"sampling/edited_frac": mean_of(is_edited)}
        self.statistics = add_up(self.statistics, counts)
        rows = range(len(rollout.prompts))
        changed = [row for row in rows if is_edited[row].any()]
        same = [row for row in rows if not is_edited[row].any()]
        again = self._judge([rollout.prompts[row] for row in changed], [groups[r] for r in changed])
        order = {row: place for place, row in enumerate([*same, *changed])}
        return Rollout.joined([rollout.select(same), again]).select([order[row] for row in rows])


def _differ(rollout: Rollout, groups: Groups) -> Tensor:
    """[P, G] bool: completions that are not the objects that they were."""
    differ = [
        [new is not old for new, old in zip(*pair, strict=True)]
        for pair in zip(groups, rollout.groups, strict=True)
    ]
    return torch.tensor(differ, dtype=torch.bool).reshape(rollout.scores.total.shape)
