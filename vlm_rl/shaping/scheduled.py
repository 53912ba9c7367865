"""A reward term whose weight is a function of the step."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from vlm_rl.records import Rollout
from vlm_rl.rewards import RewardTerm
from vlm_rl.rewards.judging import JudgingTerm
from vlm_rl.shaping.shaping import Shaping


class Scheduled(Shaping):
    """Adds `term`, at a weight that changes with the step: a stage or a ramp.

    `weights` gives steps, counted from 0, and the weight from each on; before the first it is 0.
    `between` "constant" keeps it until the next step that is given, "linear" goes there in a
    straight line. ConciseR's second stage is a term that begins at a step. The term's own weight
    must be 1. It counts in training only.
    """

    def __init__(
        self,
        term: RewardTerm,
        weights: Mapping[int, float],
        between: Literal["constant", "linear"] = "constant",
    ) -> None:
        super().__init__(1.0)
        if not weights or min(weights) < 0 or min(weights.values()) < 0:
            raise ValueError(
                f"Scheduled.weights must map steps from 0 on to weights from 0 on, got {weights}; "
                "such as {300: 0.5} for a term that begins at step 300"
            )
        if isinstance(term, JudgingTerm) or term.may_fail or term.weight != 1:
            raise ValueError(
                f"Scheduled.term must be a term of weight 1 that neither judges nor fails, got "
                f"{type(term).__name__}; put others among reward.terms"
            )
        self.term = term
        self.weights = dict(sorted(weights.items()))
        self.between = between
        self.needs_all_right = term.needs_all_right
        self.reads_policy = term.reads_policy

    def weight_at(self, step: int) -> float:
        """Return the weight of `step`, counted from 0."""
        steps, weights = list(self.weights), list(self.weights.values())
        place = bisect_right(steps, step)
        if place in (0, len(steps)) or self.between == "constant":
            return weights[place - 1] if place else 0.0
        share = (step - steps[place - 1]) / (steps[place] - steps[place - 1])
        return weights[place - 1] + share * (weights[place] - weights[place - 1])

    def values(self, everyone: Rollout) -> Tensor:
        problems = [prompt.problem for prompt in everyone.prompts]
        values = self.term.judged(problems, everyone.groups, everyone.scores.verdicts)
        return self.weight_at(everyone.step) * values
