"""A length for each problem to aim at: in `meta` for the reward, in the question for the policy.

LCPO (https://arxiv.org/abs/2503.04697) draws a target uniformly for each problem and ends the
prompt with "Think for n tokens."
"""

import random
from dataclasses import dataclass, replace

from vlm_rl.records import IMAGE_MARK, Problem

PLACE = "{tokens}"


@dataclass(frozen=True)
class LengthTargets:
    """Targets of `low` to `high` tokens, both included, and the sentence that tells them.

    A target is a function of `seed` and the problem's uid alone, so that neither the order of rows
    nor the number of ranks changes it. A row whose `meta` has `key` keeps its own. `sentence`,
    with `{tokens}` where the number goes, stands behind the question, before its options and the
    instruction. Training and validation problems both have targets.
    """

    low: int
    high: int
    key: str = "target_length"
    sentence: str = "Think for {tokens} tokens."
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(
                f"length_targets: low and high must be 1 <= low <= high in tokens, got {self.low} "
                f"and {self.high}"
            )
        if self.sentence.count(PLACE) != 1 or IMAGE_MARK in self.sentence:
            raise ValueError(
                f"length_targets.sentence must have {PLACE} once and no {IMAGE_MARK}, got "
                f"{self.sentence!r:.80}"
            )
        if not self.key:
            raise ValueError("length_targets.key must name a key of meta, got ''")

    def given_to(self, problem: Problem) -> Problem:
        """Return `problem` with its target in `meta` and in the question."""
        drawn = random.Random(f"{self.seed} {problem.uid}").randint(self.low, self.high)
        target = problem.meta.get(self.key, drawn)
        said = self.sentence.replace(PLACE, str(target))
        return replace(
            problem,
            question=f"{problem.question} {said}",
            meta={**problem.meta, self.key: target},
        )
