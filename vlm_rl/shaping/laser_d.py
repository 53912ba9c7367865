"""LASER-D and LASER-DE (arXiv:2505.15612): a target of length for each level of difficulty."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlm_rl.metrics.repetition import repeated_share
from vlm_rl.records import Groups, Rollout
from vlm_rl.shaping.shaping import Shaping

LEVELS = ("hard", "medium", "easy")
"""By the accuracy of a group: below 1/3, below 2/3, and from there on."""


class LaserD(Shaping):
    """1 for a right answer within its target, -1 for a wrong one, else 0.

    The target is that of the group's level. With the paper's `weight` 0.5 beside an accuracy of
    weight 1, right answers are worth 1.5 and 1 and wrong ones -0.5. `explore` is LASER-DE: a wrong
    answer beyond its target is worth 0, unless it repeats itself: more than `max_repeated` of its
    n-grams of `ngram` tokens stand in it before. The authors' code has other rules of repetition in
    several versions; this one is ours.

    Every `monitor_every` steps `monitor_problems` problems are sampled beside the batch. With n
    the right answers that are expected of a group at the least, int(2 G / 3) for easy problems,
    int(G / 3) for medium ones and 1 for hard ones, the target of a level becomes the smallest
    length of `least`, `least` + `stride`, ..., `most` with int(share within it * n) >= 1. The share
    counts all answers of the level, as the authors' code does. If none is long enough, it is the
    longest answer. Before the first monitoring all targets are `first_target`.
    """

    def __init__(
        self,
        weight: float = 0.5,
        first_target: int = 8192,
        explore: bool = False,
        least: int = 4096,
        most: int = 16384,
        stride: int = 1024,
        monitor_every: int = 20,
        monitor_problems: int = 500,
        ngram: int = 20,
        max_repeated: float = 0.2,
    ) -> None:
        super().__init__(weight)
        if not (0 < least <= most and stride > 0 and first_target > 0):
            raise ValueError(
                f"LaserD takes 0 < least <= most, stride > 0 and first_target > 0, got least="
                f"{least}, most={most}, stride={stride}, first_target={first_target}; the paper "
                "has 4096, 16384, 1024 and 8192"
            )
        if min(monitor_every, monitor_problems, ngram) < 1 or not 0 <= max_repeated <= 1:
            raise ValueError(
                "LaserD takes monitor_every, monitor_problems and ngram above 0 and max_repeated "
                f"in [0, 1], got {monitor_every}, {monitor_problems}, {ngram} and {max_repeated}"
            )
        self.explore = explore
        self.grid = range(least, most + 1, stride)
        self.monitor_every, self.monitor_problems = monitor_every, monitor_problems
        self.ngram, self.max_repeated = ngram, max_repeated
        self.targets = dict.fromkeys(LEVELS, first_target)

    def values(self, everyone: Rollout) -> Tensor:
        levels = _levels(everyone)
        targets = torch.tensor([self.targets[level] for level in levels])[:, None]
        within, correct = everyone.lengths <= targets, everyone.scores.correct
        values = torch.where(correct, within.double(), -1.0)
        if self.explore:
            values[~correct & ~within & ~self._repeats(everyone.groups)] = 0.0
        return values

    def _repeats(self, groups: Groups) -> Tensor:
        ids = [[completion.token_ids.tolist() for completion in group] for group in groups]
        shares = [[repeated_share(one, self.ngram) for one in row] for row in ids]
        return torch.tensor(shares) > self.max_repeated

    def monitors(self, step: int) -> int:
        return self.monitor_problems if step and step % self.monitor_every == 0 else 0

    def learn_monitored(self, everyone: Rollout) -> None:
        levels, group_size = _levels(everyone), everyone.lengths.shape[1]
        expected = {"easy": int(2 * group_size / 3), "medium": group_size // 3, "hard": 1}
        for level in LEVELS:
            lengths = everyone.lengths[[own == level for own in levels]].flatten()
            if len(lengths):
                self.targets[level] = self._target(lengths, max(1, expected[level]))

    def _target(self, lengths: Tensor, expected: int) -> int:
        for target in self.grid:
            if int((lengths <= target).sum()) * expected >= len(lengths):
                return target
        return int(lengths.max())

    def state_dict(self) -> dict[str, Any]:
        return {"targets": self.targets}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.targets = dict(state["targets"])


def _levels(everyone: Rollout) -> list[str]:
    correct, scored = everyone.scores.correct.sum(1), everyone.scores.scored.sum(1)
    return [
        LEVELS[int(3 * right >= count) + int(3 * right >= 2 * count)] if count else LEVELS[0]
        for right, count in zip(correct.tolist(), scored.tolist(), strict=True)
    ]
