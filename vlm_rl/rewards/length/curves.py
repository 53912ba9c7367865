"""Smooth functions of length over a budget of tokens."""

import math
from collections.abc import Sequence

from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards.format import Format, FormatStyle
from vlm_rl.rewards.length.group_term import GroupTerm, refuse_unfit, right


class CosineLength(GroupTerm):
    """Cosine reward (https://arxiv.org/abs/2502.03373), as ms-swift and open-r1 compute it.

    long + (short - long) * (1 + cos(pi * L / max_completion_tokens)) / 2: from `right_short` at
    length 0 to `right_long` at `max_completion_tokens` for a right completion, and from
    `wrong_short` to `wrong_long` for any other. Beyond the budget it stays at its end; there the
    cosine of both would turn back. ms-swift counts tokens and has 1, 0.5, -0.5 and 0. open-r1
    counts characters, up to 1000, and has 1, 0.5, -1 and -0.5. The paper's own value for
    completions that reach the budget is in neither, and not here.
    """

    def __init__(
        self,
        max_completion_tokens: int,
        right_short: float = 1.0,
        right_long: float = 0.5,
        wrong_short: float = -0.5,
        wrong_long: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        limit = max_completion_tokens
        ends = {"right_short": right_short, "right_long": right_long}
        ends |= {"wrong_short": wrong_short, "wrong_long": wrong_long}
        refuse_unfit(
            self,
            {"max_completion_tokens": (limit, limit >= 1, "at least 1 token")}
            | {name: (value, True, "finite") for name, value in ends.items()},
        )
        worst = min(right_short, right_long)
        if max(wrong_short, wrong_long) >= worst:
            raise ValueError(
                f"CosineLength.wrong_short and wrong_long must be below {worst}, the least that a "
                f"right answer gets, got {wrong_short} and {wrong_long}"
            )
        self.max_completion_tokens = max_completion_tokens
        self.right, self.wrong = (right_short, right_long), (wrong_short, wrong_long)

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        return [
            self._value(len(completion), *(self.right if right(verdict) else self.wrong))
            for completion, verdict in zip(group, verdicts, strict=True)
        ]

    def _value(self, length: int, short: float, long: float) -> float:
        used = min(1.0, length / self.max_completion_tokens)
        return long + (short - long) * (1 + math.cos(math.pi * used)) / 2


class FormatLength(GroupTerm):
    """Reward without labels from format and length (https://arxiv.org/abs/2505.19439).

    With x = L / max_completion_tokens, the length is worth 1 - (1 - x / peak)^2 up to `peak`, and
    1 - 2 ((x - peak) / (1 - peak))^2 beyond. A completion of the form `style` gets 1 + that, any
    other min(0, that). So it is the whole reward of a run without labels: the term that judges has
    weight 0 there, and a `Format` term beside it would count twice. Published: peak 0.5. The
    authors' released file has other pieces, on characters; this is the paper. Lengths beyond the
    budget, which do not occur in training, count as the budget.
    """

    def __init__(
        self,
        max_completion_tokens: int,
        peak: float = 0.5,
        style: FormatStyle = "box",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        limit = max_completion_tokens
        refuse_unfit(
            self,
            {
                "max_completion_tokens": (limit, limit >= 1, "at least 1 token"),
                "peak": (peak, 0 < peak < 1, "in (0, 1); the paper has 0.5"),
            },
        )
        self.max_completion_tokens, self.peak = max_completion_tokens, peak
        self._format = Format(style=style)

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        [formed] = self._format([problem], [group]).tolist()
        lengths = [self._of_length(len(completion)) for completion in group]
        return [
            1 + value if form else min(0.0, value)
            for form, value in zip(formed, lengths, strict=True)
        ]

    def _of_length(self, length: int) -> float:
        x = min(1.0, length / self.max_completion_tokens)
        if x <= self.peak:
            return 1 - (1 - x / self.peak) ** 2
        return 1 - 2 * ((x - self.peak) / (1 - self.peak)) ** 2
