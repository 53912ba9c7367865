"""Length beside that of the other completions of the group, or only where the group is right."""

import math
from collections.abc import Sequence

from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards.length.group_term import GroupTerm, refuse_unfit, right, scored_lengths


class GR3(GroupTerm):
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

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        checked = scored_lengths(group, verdicts)
        mean = sum(checked) / len(checked) if checked else 0.0
        return [1 / (1 + self.alpha * (len(c) / mean if mean else 1.0)) for c in group]


class KimiLength(GroupTerm):
    """Length reward of Kimi k1.5 (https://arxiv.org/abs/2501.12599).

    With lambda = 0.5 - (L - L_min) / (L_max - L_min), L_min and L_max the shortest and longest of
    the scored completions of the group: lambda for a right completion, min(0, lambda) for any
    other. 0 for all if they are equally long. The paper weighs it and begins without it; neither
    the weight nor the warm-up is published.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        lengths = scored_lengths(group, verdicts)
        if not lengths or max(lengths) == min(lengths):
            return [0.0] * len(group)
        shortest, span = min(lengths), max(lengths) - min(lengths)
        values = [0.5 - (len(completion) - shortest) / span for completion in group]
        return [
            value if right(verdict) else min(0.0, value)
            for value, verdict in zip(values, verdicts, strict=True)
        ]


class ConciseR(GroupTerm):
    """Length bonus of the second stage of ConciseR (https://arxiv.org/abs/2505.21178).

    In a group whose scored completions are all right: the unused share of the budget, max(0, 1 -
    L / max_completion_tokens). 0 in every other group. That only such groups are paid is published;
    the exact form of the bonus could not be found, and this one is linear. A filter on mixed
    verdicts (`MixedVerdicts`) drops exactly the groups that it pays, and is refused beside it.
    """

    needs_all_right = True

    def __init__(self, max_completion_tokens: int, weight: float = 1.0) -> None:
        super().__init__(weight)
        limit = max_completion_tokens
        refuse_unfit(self, {"max_completion_tokens": (limit, limit >= 1, "at least 1 token")})
        self.max_completion_tokens = max_completion_tokens

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        scored = [verdict for verdict in verdicts if verdict.scored]
        if not scored or not all(map(right, scored)):
            return [0.0] * len(group)
        return [max(0.0, 1 - len(completion) / self.max_completion_tokens) for completion in group]
