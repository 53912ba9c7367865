"""A reward that says nothing, to see what an objective does to length by itself."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem
from vlm_rl.rewards.term import RewardTerm


class Coin(RewardTerm):
    """0 or 1 by a hash of the problem's uid and the completion's tokens: as likely for a short one
    as for a long one, and the same whenever a run is repeated.

    A control: with an accuracy of weight 0 beside it no length pays, and a length that moves all
    the same was moved by the objective. The uid is needed: a coin of the tokens alone can be learnt
    for short answers, of which there are few, and a policy then turns short.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        rows = [
            [_flip(problem.uid, completion) for completion in group]
            for problem, group in zip(problems, groups, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)


def _flip(uid: str, completion: Completion) -> float:
    tokens = completion.token_ids.numpy().tobytes()
    return float(hashlib.sha256(uid.encode() + tokens).digest()[0] & 1)
