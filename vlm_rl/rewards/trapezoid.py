"""Length trapezoid of G2RPO (https://arxiv.org/abs/2604.08539)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlm_rl.records import Groups, Problem
from vlm_rl.rewards.term import RewardTerm


class LengthTrapezoid(RewardTerm):
    """1 for lengths from `low` to `high` tokens, falling linearly to 0 at `least` and at `most`.

    Beyond these it is 0. `tasks` gives problems of a task corners of their own, [least, low, high,
    most].

    The corners are set by task in the paper; its values are not published.
    """

    def __init__(
        self,
        least: int,
        low: int,
        high: int,
        most: int,
        tasks: Mapping[str, Sequence[int]] | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.corners = (least, low, high, most)
        self.tasks = {name: tuple(corners) for name, corners in (tasks or {}).items()}
        for corners in (self.corners, *self.tasks.values()):
            if len(corners) != 4 or corners[0] < 0 or sorted(corners) != list(corners):
                raise ValueError(
                    "LengthTrapezoid needs 0 <= least <= low <= high <= most in tokens, "
                    f"got {list(corners)}"
                )

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        rows = [
            [
                _height(len(completion), self.tasks.get(problem.task, self.corners))
                for completion in g
            ]
            for problem, g in zip(problems, groups, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)


def _height(length: int, corners: Sequence[int]) -> float:
    least, low, high, most = corners
    if low <= length <= high:
        return 1.0
    rising = (length - least) / (low - least) if length < low and low > least else 0.0
    falling = (most - length) / (most - high) if length > high and most > high else 0.0
    return max(0.0, rising, falling)
