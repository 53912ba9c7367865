"""CEEH (arXiv:2602.22642): shorter where a problem is mastered, more open where it is hard."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_rl.records import Rollout
from vlm_rl.shaping.shaping import Shaping


@dataclass
class Record:
    """What a problem has shown: a length of right answers in tokens, and an accuracy."""

    length: float | None = None
    accuracy: float = -1.0


class CEEH(Shaping):
    """Keeps a record of each problem, a length L* and an accuracy a*, and acts by it.

    A right answer in a group whose accuracy is at least a* gets max(`floor`, `weight` (L* - L) /
    L*). In a hard problem, of accuracy at most the mean of all a*, a token of entropy H gets
    min(`entropy_gain` H, |A| / 2) more advantage, times a factor that falls from 1 to 0 at
    `entropy_steps`. L* begins as the shortest right answer of a step and moves to that of later
    ones, by `rate_up` where that is better, else by `rate_down`; so does a*, from -1.

    Published: `weight` 0.5 in the authors' configuration (0.1 in their text), `floor` -0.9,
    `entropy_gain` 0.4, rates 0.2 and 0.05. Here the mean of a* is over problems that were sampled;
    the authors' counts all others as -1. How fast their gain falls was not found. `entropy_gain` 0
    saves the forward.
    """

    def __init__(
        self,
        weight: float = 0.5,
        floor: float = -0.9,
        entropy_gain: float = 0.4,
        entropy_steps: int | None = None,
        rate_up: float = 0.2,
        rate_down: float = 0.05,
    ) -> None:
        super().__init__(weight)
        for name, value in {"rate_up": rate_up, "rate_down": rate_down}.items():
            if not 0 < value <= 1:
                raise ValueError(f"CEEH.{name} must be in (0, 1], got {value}; take 0.2 and 0.05")
        if not (entropy_gain >= 0 and floor <= 0 and (entropy_steps is None or entropy_steps > 0)):
            raise ValueError(
                "CEEH takes entropy_gain >= 0, floor <= 0 and entropy_steps above 0 or null, got "
                f"{entropy_gain}, {floor} and {entropy_steps}; the paper has 0.4 and -0.9"
            )
        self.floor = floor
        self.entropy_gain = entropy_gain
        self.entropy_steps = entropy_steps
        self.rate_up = rate_up
        self.rate_down = rate_down
        self.reads_policy = entropy_gain > 0
        self.records: dict[str, Record] = {}

    def values(self, everyone: Rollout) -> Tensor:
        values = torch.zeros_like(everyone.scores.total)
        lengths, correct = everyone.lengths.double(), everyone.scores.correct
        accuracies = _accuracies(everyone)
        for row, prompt in enumerate(everyone.prompts):
            record = self.records.get(prompt.uid, Record())
            if record.length is not None and accuracies[row] >= record.accuracy:
                saved = (record.length - lengths[row]) / record.length
                least = self.floor / self.weight
                values[row] = torch.where(correct[row], saved.clamp(min=least), 0.0)
        return values

    def advantages(self, advantages: Tensor, everyone: Rollout) -> Tensor:
        remaining, hard = self._remaining(everyone.step), self._hard(everyone)
        if not self.entropy_gain * remaining or not hard.any():
            return advantages
        width = int(everyone.lengths.max())
        entropies = torch.zeros(*advantages.shape, width, dtype=torch.float64)
        for row in hard.nonzero()[:, 0].tolist():
            for column, completion in enumerate(everyone.groups[row]):
                assert completion.entropies is not None, "a step has them where they are read"
                entropies[row, column, : len(completion)] = completion.entropies.double()
        own = advantages[..., None]
        return own + remaining * torch.minimum(self.entropy_gain * entropies, own.abs() / 2)

    def _remaining(self, step: int) -> float:
        return 1.0 if self.entropy_steps is None else max(0.0, 1 - step / self.entropy_steps)

    def _hard(self, everyone: Rollout) -> Tensor:
        """[P] bool; nothing is hard before there is a record."""
        seen = [record.accuracy for record in self.records.values()]
        mean = sum(seen) / len(seen) if seen else -1.0
        return _accuracies(everyone) <= mean

    def learn(self, everyone: Rollout, dropped: Rollout) -> None:
        for rollout in (everyone, dropped):
            correct, accuracies = rollout.scores.correct, _accuracies(rollout).tolist()
            for row, prompt in enumerate(rollout.prompts):
                if not rollout.scores.scored[row].any():
                    continue
                record = self.records.setdefault(prompt.uid, Record())
                right = rollout.lengths[row, correct[row]]
                if len(right) and right.min() > 0:
                    record.length = self._shorter(record.length, float(right.min()))
                record.accuracy = self._better(record.accuracy, accuracies[row])

    def _shorter(self, old: float | None, new: float) -> float:
        if old is None:
            return new
        return old + (self.rate_up if new < old else self.rate_down) * (new - old)

    def _better(self, old: float, new: float) -> float:
        return old + (self.rate_up if new > old else self.rate_down) * (new - old)

    def state_dict(self) -> dict[str, Any]:
        return {uid: [record.length, record.accuracy] for uid, record in self.records.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.records = {uid: Record(*values) for uid, values in state.items()}


def _accuracies(rollout: Rollout) -> Tensor:
    """[P] float64: right answers among those that could be checked."""
    scores = rollout.scores
    return scores.correct.sum(1).double() / scores.scored.sum(1).clamp(min=1)
