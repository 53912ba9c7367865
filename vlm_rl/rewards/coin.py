"""A reward that says nothing, to see what an objective does to length by itself."""

import hashlib
from collections.abc import Sequence

from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem
from vlm_rl.rewards.term import RewardTerm, each_completion


class Coin(RewardTerm):
    """0 or 1 by a hash of the completion's tokens: as likely for a short one as for a long one.

    Equal completions get equal rewards, so that a run can be repeated. A control: with an accuracy
    of weight 0 beside it, no length pays, and a length that moves all the same was moved by the
    objective.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        return each_completion(groups, _flip)


def _flip(completion: Completion) -> float:
    return float(hashlib.sha256(completion.token_ids.numpy().tobytes()).digest()[0] & 1)
