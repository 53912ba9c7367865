"""Terms that pay or punish the length of a completion."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem, Verdict
from vlm_rl.rewards.term import RewardTerm, each_completion


class SoftOverlong(RewardTerm):
    """Soft overlong punishment of DAPO (https://arxiv.org/abs/2503.14476, equation 13).

    0 up to `max_completion_tokens - buffer_tokens`, then falling linearly to -1 at
    `max_completion_tokens`, and -1 beyond.
    """

    def __init__(self, max_completion_tokens: int, buffer_tokens: int, weight: float = 1.0) -> None:
        super().__init__(weight)
        if not 0 < buffer_tokens <= max_completion_tokens:
            raise ValueError(
                f"SoftOverlong.buffer_tokens must be in 1..max_completion_tokens "
                f"({max_completion_tokens}), got {buffer_tokens}; DAPO has 4096 of 20480"
            )
        self.max_completion_tokens = max_completion_tokens
        self.buffer_tokens = buffer_tokens

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        return each_completion(groups, self._value)

    def _value(self, completion: Completion) -> float:
        free_tokens = self.max_completion_tokens - self.buffer_tokens
        return max(-1.0, min(0.0, (free_tokens - len(completion)) / self.buffer_tokens))


class LengthTrapezoid(RewardTerm):
    """Length trapezoid of G2RPO (https://arxiv.org/abs/2604.08539).

    1 for lengths from `low` to `high` tokens, falling linearly to 0 at `least` and at `most`, and 0
    beyond. `tasks` gives the problems of a task their own corners, [least, low, high, most]. The
    paper sets the corners by task; its values are not published.
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
        corners = [self.tasks.get(problem.task, self.corners) for problem in problems]
        rows = [
            [_height(len(completion), of_problem) for completion in group]
            for of_problem, group in zip(corners, groups, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)


class GR3(RewardTerm):
    """Length rescaling of GR3 (https://arxiv.org/abs/2603.10535), one of `Reward.factors`.

    1 / (1 + alpha * length / mean length of the group), in tokens, over the completions that could
    be checked. So a completion of mean length keeps 1 / (1 + alpha), an empty one keeps all, and
    what is worth nothing costs nothing, however long. In a group of empty completions each has the
    mean length. `alpha` is fixed: the paper's calibration of it is not done here. Rewards must not
    be negative.
    """

    shrinks = True

    def __init__(self, alpha: float, weight: float = 1.0) -> None:
        super().__init__(weight)
        if not 0 < alpha < math.inf:
            raise ValueError(
                f"GR3.alpha must be positive and finite, got {alpha}; 0.33 is a usual value"
            )
        self.alpha = alpha

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        return self.judged(problems, groups, [[Verdict.WRONG] * len(group) for group in groups])

    def judged(
        self, problems: Sequence[Problem], groups: Groups, verdicts: Sequence[Sequence[Verdict]]
    ) -> Tensor:
        rows = [self._row(*both) for both in zip(groups, verdicts, strict=True)]
        return torch.tensor(rows, dtype=torch.float64)

    def _row(self, group: Sequence[Completion], verdicts: Sequence[Verdict]) -> list[float]:
        checked = [len(c) for c, verdict in zip(group, verdicts, strict=True) if verdict.scored]
        mean = sum(checked) / len(checked) if checked else 0.0
        return [1 / (1 + self.alpha * (len(c) / mean if mean else 1.0)) for c in group]


def _height(length: int, corners: Sequence[int]) -> float:
    least, low, high, most = corners
    if low <= length <= high:
        return 1.0
    rising = (length - least) / (low - least) if length < low and low > least else 0.0
    falling = (most - length) / (most - high) if length > high and most > high else 0.0
    return max(0.0, rising, falling)
