"""Each shaping once more, in plain floats from its formula, one group and answer at a time.

They see a step as `Group`s: lengths, and which answers are right and which could be checked. What
they say of an answer that could not be checked is not compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from vlm_rl.records import Rollout


@dataclass(frozen=True)
class Group:
    uid: str
    lengths: list[int]
    right: list[bool]
    scored: list[bool]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / max(1, sum(self.scored))


Values = list[list[float]]


def groups_of(everyone: Rollout) -> list[Group]:
    scores = everyone.scores
    columns = (everyone.lengths.tolist(), scores.correct.tolist(), scores.scored.tolist())
    return [
        Group(prompt.uid, *row) for prompt, *row in zip(everyone.prompts, *columns, strict=True)
    ]


@dataclass
class HAPOLoop:
    shortest: dict[str, int] = field(default_factory=dict)

    def values(self, groups: Sequence[Group], step: int) -> Values:
        return [
            [
                self._one(self.shortest.get(g.uid), n, r)
                for n, r in zip(g.lengths, g.right, strict=True)
            ]
            for g in groups
        ]

    def _one(self, h: int | None, length: int, right: bool) -> float:
        if h is None:
            return 0.0
        r = math.cos(math.pi * length / (2 * h)) if length < 2 * h else -1.0
        return max(-0.7, r) if right else min(0.0, r)

    def learn(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for length, right in zip(group.lengths, group.right, strict=True):
                if right and length > 0:
                    self.shortest[group.uid] = min(length, self.shortest.get(group.uid, length))


@dataclass
class GRPOLambdaLoop:
    def values(self, groups: Sequence[Group], step: int) -> Values:
        order = sorted(range(len(groups)), key=lambda i: -groups[i].accuracy)  # stable
        best = set(order[: max(1, len(groups) // 2)])
        return [
            self._of(group) if i in best else [0.0] * len(group.right)
            for i, group in enumerate(groups)
        ]

    def _of(self, group: Group) -> list[float]:
        lengths = [n for n, r in zip(group.lengths, group.right, strict=True) if r]
        values = []
        for length, right in zip(group.lengths, group.right, strict=True):
            z = 0.0
            if len(set(lengths)) > 1:
                z = (length - fmean(lengths)) / stdev(lengths)
            values.append(-1 / (1 + math.exp(-z)) if right else 0.0)
        return values

    def learn(self, groups: Sequence[Group]) -> None: ...


@dataclass
class LaserDLoop:
    """With the targets 2, 4, ... 10; `explore` forgives, as no drawn answer repeats itself."""

    explore: bool = False
    targets: dict[str, int] = field(default_factory=lambda: {"hard": 8, "medium": 8, "easy": 8})

    def level(self, group: Group) -> str:
        if group.accuracy >= 2 / 3:
            return "easy"
        return "medium" if group.accuracy >= 1 / 3 else "hard"

    def values(self, groups: Sequence[Group], step: int) -> Values:
        rows = []
        for group in groups:
            target, row = self.targets[self.level(group)], []
            for length, right in zip(group.lengths, group.right, strict=True):
                if right:
                    row.append(1.0 if length <= target else 0.0)
                else:
                    row.append(0.0 if self.explore and length > target else -1.0)
            rows.append(row)
        return rows

    def learn(self, groups: Sequence[Group]) -> None: ...

    def learn_monitored(self, groups: Sequence[Group]) -> None:
        size = len(groups[0].right)
        expected = {"easy": int(size * 2 / 3), "medium": int(size / 3), "hard": 1}
        for level, number in expected.items():
            lengths = [n for g in groups if self.level(g) == level for n in g.lengths]
            if not lengths:
                continue
            fitting = [
                target
                for target in range(2, 11, 2)
                if sum(n <= target for n in lengths) / len(lengths) * max(1, number) >= 1
            ]
            self.targets[level] = fitting[0] if fitting else max(lengths)


@dataclass
class CEEHLoop:
    records: dict[str, list[float | None]] = field(default_factory=dict)

    def values(self, groups: Sequence[Group], step: int) -> Values:
        rows = []
        for group in groups:
            length, accuracy = self.records.get(group.uid, [None, -1.0])
            row = []
            for own, right in zip(group.lengths, group.right, strict=True):
                paid = length is not None and right and group.accuracy >= accuracy
                # weight 0.5, which the trainer multiplies with, and a floor of -0.9 behind it
                row.append(max(-0.9, 0.5 * (length - own) / length) / 0.5 if paid else 0.0)
            rows.append(row)
        return rows

    def learn(self, groups: Sequence[Group]) -> None:
        for group in groups:
            if not any(group.scored):
                continue
            record = self.records.setdefault(group.uid, [None, -1.0])
            right = [n for n, r in zip(group.lengths, group.right, strict=True) if r]
            if right and min(right) > 0:
                new, old = float(min(right)), record[0]
                rate = 0.2 if old is not None and new < old else 0.05
                record[0] = new if old is None else (1 - rate) * old + rate * new
            rate = 0.2 if group.accuracy > record[1] else 0.05
            record[1] = (1 - rate) * record[1] + rate * group.accuracy


@dataclass
class ScheduledLoop:
    """A trapezoid from 1 over 2 and 9 to 20, of weight 0.5 at step 1 and 1 at step 5."""

    def values(self, groups: Sequence[Group], step: int) -> Values:
        weight = 0.0 if step < 1 else min(1.0, 0.5 + 0.125 * (step - 1))
        corners = {"up": (1, 2), "down": (9, 20)}
        return [[weight * self._one(n, **corners) for n in group.lengths] for group in groups]

    def _one(self, length: int, up: tuple[int, int], down: tuple[int, int]) -> float:
        rising = (length - up[0]) / (up[1] - up[0])
        falling = (down[1] - length) / (down[1] - down[0])
        return max(0.0, min(1.0, rising, falling))

    def learn(self, groups: Sequence[Group]) -> None: ...


LOOPS = {
    "HAPO": HAPOLoop,
    "GRPOLambda": GRPOLambdaLoop,
    "LaserD": LaserDLoop,
    "LaserDE": lambda: LaserDLoop(explore=True),
    "CEEH": CEEHLoop,
    "Scheduled": ScheduledLoop,
}
"""By the name of a case in `tests/shaping/test_shapings.py`."""
