"""Limits and ranges of length: published for all rows, by task, by row or by group accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem, Verdict
from vlm_rl.rewards.length.group_term import GroupTerm, RowTerm, refuse_unfit, right
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


class LengthRange(RowTerm):
    """Length reward of LongWriter-Zero (https://arxiv.org/abs/2506.18841), a range for each row.

    `meta[key]` is [low, high] in tokens. 1 for a length L in it, L / low below, and
    (max_tokens - L) / (max_tokens - high) above, but not below 0. Published is that a range is
    predicted for each query, that lengths in it are worth most, and that shorter and longer ones
    lose. The two slopes could not be confirmed, and the paper's ranges count words.
    """

    def __init__(self, max_tokens: int, key: str = "length_range", weight: float = 1.0) -> None:
        super().__init__(key, weight)
        refuse_unfit(self, {"max_tokens": (max_tokens, max_tokens >= 1, "at least 1 token")})
        self.max_tokens = max_tokens

    def wanted(self, said: Any) -> str | None:
        pair = said if isinstance(said, list | tuple) and len(said) == 2 else ()
        whole = [end for end in pair if isinstance(end, int) and not isinstance(end, bool)]
        if len(whole) == 2 and 0 <= whole[0] <= whole[1] < self.max_tokens:
            return None
        return f"it must be [low, high] with 0 <= low <= high < max_tokens ({self.max_tokens})"

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        return self.of_row(problem, group, self._value)

    def _value(self, ends: tuple[int, int], length: int) -> float:
        low, high = ends
        if length < low:
            return length / low
        if length > high:
            return max(0.0, (self.max_tokens - length) / (self.max_tokens - high))
        return 1.0


class Unfinished(GroupTerm):
    """What remains of the reward of a completion that was cut off, one of `Reward.factors`.

    `kept` for a completion that did not end by itself, else 1. The code of DLER
    (https://arxiv.org/abs/2510.15110) keeps 0.1; its paper gives 0 beyond the limit.
    """

    shrinks = True

    def __init__(self, kept: float = 0.1, weight: float = 1.0) -> None:
        super().__init__(weight)
        refuse_unfit(self, {"kept": (kept, 0 <= kept <= 1, "in [0, 1]; DLER keeps 0.1")})
        self.kept = kept

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        return [self.kept if completion.truncated else 1.0 for completion in group]


class AccuracyLimit(GroupTerm):
    """Limit of DA-DLER (https://arxiv.org/abs/2510.15110), one of `Reward.factors`.

    1 up to the limit and 0 beyond. The limit is `easy_limit` tokens in a group of which at least
    `easy_from` of the scored completions are right, else `limit`. The paper says "correctness
    ratio" of a prompt; that it is the ratio of the group itself is our reading.
    """

    shrinks = True

    def __init__(
        self, limit: int, easy_limit: int, easy_from: float = 0.5, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        order = f"in 1..limit ({limit}); DA-DLER has 2000 of 4000"
        refuse_unfit(
            self,
            {
                "limit": (limit, limit >= 1, "at least 1 token"),
                "easy_limit": (easy_limit, 1 <= easy_limit <= limit, order),
                "easy_from": (easy_from, 0 < easy_from <= 1, "in (0, 1]; DA-DLER has 0.5"),
            },
        )
        self.limit, self.easy_limit, self.easy_from = limit, easy_limit, easy_from

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        num_scored = sum(verdict.scored for verdict in verdicts)
        num_right = sum(map(right, verdicts))
        easy = num_scored > 0 and num_right >= self.easy_from * num_scored
        limit = self.easy_limit if easy else self.limit
        return [float(len(completion) <= limit) for completion in group]


def _height(length: int, corners: Sequence[int]) -> float:
    least, low, high, most = corners
    if low <= length <= high:
        return 1.0
    rising = (length - least) / (low - least) if length < low and low > least else 0.0
    falling = (most - length) / (most - high) if length > high and most > high else 0.0
    return max(0.0, rising, falling)
