"""Soft overlong punishment of DAPO (https://arxiv.org/abs/2503.14476, equation 13)."""

from collections.abc import Sequence

from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem
from vlm_rl.rewards.term import RewardTerm, each_completion


class SoftOverlong(RewardTerm):
    """0 up to `max_completion_tokens - buffer_tokens`, then falling linearly to -1 at
    `max_completion_tokens`, and -1 beyond."""

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
