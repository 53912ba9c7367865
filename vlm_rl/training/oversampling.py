"""Sampling more problems at once than a step needs, by how many groups a filter has kept so far."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean, pstdev
from typing import Any

from vlm_rl.training.dynamic_sampling import MixedVerdicts


class PredictedMixedVerdicts(MixedVerdicts):
    """`MixedVerdicts` with predictive oversampling (DOT, arXiv:2601.03969, github.com/U-rara/DOT).

    The first round of a step of n problems samples floor(n * factor). The factor is (1 + s) / m,
    within `least` and `most`: m and s are the mean and the population deviation of the shares of
    groups that were kept in each of the last `window` steps. It is `first` before there is one,
    `most` if m is 0. Of the groups that are kept beyond n those sampled last are dropped.

    Published: one round, so that a step may have fewer groups; the values are those of the authors'
    script. The state is the window, the same on every rank.
    """

    oversamples = True

    def __init__(
        self,
        max_rounds: int = 1,
        window: int = 20,
        first: float = 1.5,
        least: float = 1.2,
        most: float = 5.0,
    ) -> None:
        super().__init__(max_rounds)
        if not (1 <= least <= first <= most < math.inf and window >= 1):
            raise ValueError(
                "PredictedMixedVerdicts takes 1 <= least <= first <= most, finite, and window >= 1,"
                f" got {least}, {first}, {most} and {window}; the authors have 1.2, 1.5, 5 and 20"
            )
        self.first, self.least, self.most = first, least, most
        self.keep_rates: deque[float] = deque(maxlen=window)

    @property
    def factor(self) -> float:
        """How many times the problems of a step the next one samples at once."""
        if not self.keep_rates:
            return self.first
        mean = fmean(self.keep_rates)
        if mean == 0:
            return self.most
        return min(max((1 + pstdev(self.keep_rates)) / mean, self.least), self.most)

    def more_than(self, num_groups: int) -> int:
        return int(num_groups * self.factor) - num_groups

    def check_refill(self, num_problems: int, prompts_per_step: int) -> None:
        if num_problems <= prompts_per_step:
            raise ValueError(
                f"data.prompts_per_step={prompts_per_step} takes all {num_problems} training "
                "problems at once, so that dynamic_sampling has none to sample beside them; lower "
                "it, or take vlm_rl.training.MixedVerdicts with max_rounds 1"
            )

    def learn(self, keep_rate: float) -> None:
        self.keep_rates.append(keep_rate)

    def state_dict(self) -> dict[str, Any]:
        return {"keep_rates": [*self.keep_rates]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.keep_rates.clear()
        self.keep_rates.extend(state["keep_rates"])
