"""A reward without information, which shows what an objective does to length by itself."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem
from vlm_rl.rewards.term import RewardTerm


class Coin(RewardTerm):
    """0 or 1 by a hash of the problem's uid and the completion's tokens.

    Equally likely for short and long completions, and the same when a run is repeated. It serves as
    a control: beside an accuracy of weight 0 no length pays, so the objective alone moves the
    length. The uid is needed, since there are few short answers: a policy could learn the coin of
    their tokens, and would turn short.
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
