"""A length for each problem to aim at: in `meta` for the reward, in the question for the policy.

LCPO (https://arxiv.org/abs/2503.04697) draws a target uniformly for each problem and ends the
prompt with "Think for n tokens."
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vlm_rl.records import IMAGE_MARK, Problem

PLACE = "{tokens}"
NAME = "{level}"


@dataclass(frozen=True)
class LengthTargets:
    """Targets of `low` to `high` tokens, both included, and the sentence that tells them.

    A target is a function of `seed` and the problem's uid alone, so that neither the order of rows
    nor the number of ranks changes it. A row whose `meta` has `key` keeps its own. `sentence`,
    with `{tokens}` where the number goes, stands behind the question, before its options and the
    instruction. Training and validation problems both have targets.

    `levels` names the targets to draw from, all within `low` and `high`, such as {short: 500, long:
    4000}; the sentence may then have `{level}` for the name instead.
    """

    low: int
    high: int
    key: str = "target_length"
    sentence: str = "Think for {tokens} tokens."
    seed: int = 0
    levels: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(
                f"length_targets: low and high must be 1 <= low <= high in tokens, got {self.low} "
                f"and {self.high}"
            )
        places = self.sentence.count(PLACE) + self.sentence.count(NAME) * bool(self.levels)
        if places != 1 or IMAGE_MARK in self.sentence:
            raise ValueError(
                f"length_targets.sentence must have {PLACE} once and no {IMAGE_MARK}, got "
                f"{self.sentence!r:.80}; with levels {NAME} will do"
            )
        named = self.levels.values()
        if len(set(named)) < len(named) or not all(self.low <= n <= self.high for n in named):
            raise ValueError(
                f"length_targets.levels must be different numbers from low={self.low} to "
                f"high={self.high}, got {dict(self.levels)}"
            )
        if not self.key:
            raise ValueError("length_targets.key must name a key of meta, got ''")

    def given_to(self, problem: Problem) -> Problem:
        """Return `problem` with its target in `meta` and in the question.

        Raises ValueError for a target of its row that no level has, where its name must be told.
        """
        generator = random.Random(f"{self.seed} {problem.uid}")
        if self.levels:
            drawn = generator.choice(sorted(self.levels.values()))
        else:
            drawn = generator.randint(self.low, self.high)
        target = problem.meta.get(self.key, drawn)
        said = self.sentence.replace(PLACE, str(target))
        if NAME in said and self.levels:
            names = [name for name, tokens in self.levels.items() if tokens == target]
            if not names:
                raise ValueError(
                    f"problem {problem.uid!r} has {self.key} {target}, which is none of "
                    f"length_targets.levels {dict(self.levels)}; add it, or say {PLACE}"
                )
            said = said.replace(NAME, names[0])
        return replace(
            problem,
            question=f"{problem.question} {said}",
            meta={**problem.meta, self.key: target},
        )
