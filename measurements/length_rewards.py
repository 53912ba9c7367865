"""Rewards of the length alone, for studies of where length pays in a known way.

python -m vlm_rl.study --config configs/studies/torn.yaml
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem
from vlm_rl.rewards import RewardTerm


class Torn(RewardTerm):
    """1 for at least `long` tokens, a coin that is 1 in `share` of the cases for at most `short`,
    0 between: reward is not monotone in length, so that pushes of sums and of means may differ in
    sign.

    The coin is a hash of the problem's uid and the tokens, the same when a run is repeated.
    """

    def __init__(
        self, weight: float = 1.0, short: int = 8, long: int = 24, share: float = 0.6
    ) -> None:
        super().__init__(weight)
        if not 0 < short < long:
            raise ValueError(
                f"Torn needs 0 < short < long, got {short} and {long}; answers between earn nothing"
            )
        if not 0 <= share <= 1:
            raise ValueError(f"Torn.share must be in [0, 1], got {share}; it is a probability")
        self.short, self.long, self.share = short, long, share

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        rows = [
            [self._value(problem, completion) for completion in group]
            for problem, group in zip(problems, groups, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def _value(self, problem: Problem, completion: Completion) -> float:
        if len(completion) >= self.long:
            return 1.0
        if len(completion) > self.short:
            return 0.0
        tokens = completion.token_ids.numpy().tobytes()
        digest = hashlib.sha256(problem.uid.encode() + tokens).digest()
        return float(int.from_bytes(digest[:4], "big") / 2**32 < self.share)
