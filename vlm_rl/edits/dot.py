"""DOT (arXiv:2601.03969): answers far longer than others of a solved problem end earlier."""

import math
from collections.abc import Sequence
from typing import Any

from vlm_rl.edits.edit import RolloutEdit
from vlm_rl.records import Completion, Groups, Prompt, Rollout
from vlm_rl.rollout import shortened


class DOT(RolloutEdit):
    """Cuts outliers of length in groups in which every answer is right, so that they count wrong.

    With T = floor(mean + `deviations` * std) of the group's lengths in tokens, and the std of a
    sample, an answer of T + `least_tokens` or more ends after T tokens and is judged again. One
    that could not be scored is not right. Published: 3 and 32, in groups of 32. Of n lengths none
    is more than (n - 1) / sqrt(n) deviations above the mean, 2.846 for 10: with 3 no answer can be
    cut in groups of fewer than 11.
    """

    def __init__(self, deviations: float = 3.0, least_tokens: int = 32) -> None:
        if not (math.isfinite(deviations) and deviations > 0):
            raise ValueError(
                f"DOT.deviations must be positive and finite, got {deviations}; the paper has 3"
            )
        if least_tokens < 1:
            raise ValueError(
                f"DOT.least_tokens must be >= 1, got {least_tokens}; the authors' code has 32"
            )
        self.deviations = deviations
        self.least_tokens = least_tokens

    def check(self, group_size: int, train_on_truncated: bool) -> None:
        reachable = (group_size - 1) / math.sqrt(group_size)
        if reachable <= self.deviations:
            # n - deviations * sqrt(n) - 1 > 0
            least = (self.deviations + math.sqrt(self.deviations**2 + 4)) / 2
            raise ValueError(
                f"edit DOT would cut nothing: of group_size={group_size} lengths none can be more "
                f"than {reachable:.3f} standard deviations above their mean, and "
                f"edit.init_args.deviations is {self.deviations:g}; raise group_size to "
                f"{math.floor(least**2) + 1}, or lower deviations"
            )
        if not train_on_truncated:
            raise ValueError(
                "edit DOT ends answers as if the budget had, and "
                "updates.train_on_truncated=false leaves those out of the loss; set it to true"
            )

    def __call__(self, rollout: Rollout, tokenizer: Any) -> Groups:
        is_solved = rollout.scores.correct.all(dim=1).tolist()
        rows = zip(rollout.prompts, rollout.groups, is_solved, strict=True)
        return [self._cut(p, group, tokenizer) if solved else group for p, group, solved in rows]

    def _cut(
        self, prompt: Prompt, group: Sequence[Completion], tokenizer: Any
    ) -> Sequence[Completion]:
        limit = self.limit([len(completion) for completion in group])
        most = limit + self.least_tokens
        return [c if len(c) < most else shortened(prompt, c, limit, tokenizer) for c in group]

    def limit(self, lengths: Sequence[int]) -> int:
        """Return T of a group; the order of the lengths does not matter to the last bit."""
        n, total = len(lengths), sum(lengths)
        # in integers up to the division: a floor would show what sums of floats round
        variance = (n * sum(length * length for length in lengths) - total**2) / (n * (n - 1))
        return math.floor(total / n + self.deviations * math.sqrt(variance))
