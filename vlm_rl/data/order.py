"""Problems in training order: the mixture of sources, each in its own epochs."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np


class Mixture:
    """Which problems each step has. Problems are numbered through all sources in their order.

    Every source is drawn in its own epochs, each a new permutation. Sources take turns by stride
    scheduling: draw j of a source with share w is due at slot (j + 1/2) / w. So its count in any
    window is within 1 + w * sources of its share. No step has a problem twice: if a step spans two
    epochs of a source, what it already has waits for the next step.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], *, prompts_per_step: int, seed: int
    ) -> None:
        self.sizes = list(sizes)
        self.shares = [weight / sum(weights) for weight in weights]
        self.prompts_per_step = prompts_per_step
        self.seed = seed
        self._offsets = [0, *accumulate(sizes)]
        self._draws = [0] * len(sizes)
        self._queues: list[list[int]] = [[] for _ in sizes]
        self._steps: list[list[int]] = []

    def most_draws(self, source: int) -> int:
        """Bound the problems of `source` in one step; a source needs at least as many."""
        slots = self.prompts_per_step
        return min(slots, math.ceil(self.shares[source] * (slots + len(self.sizes))))

    def batch(self, step: int) -> list[int]:
        """Return the problems of `step`, counted from 0: [prompts_per_step] different numbers."""
        # replayed from the start: a million draws take seconds, and no closed form is as simple
        while len(self._steps) <= step:
            self._steps.append(self._next_batch())
        return self._steps[step]

    def _next_batch(self) -> list[int]:
        held: dict[int, None] = {}
        for _ in range(self.prompts_per_step):
            due = [(draws + 0.5) / w for draws, w in zip(self._draws, self.shares, strict=True)]
            held[self._draw(due.index(min(due)), held)] = None
        return list(held)

    def _draw(self, source: int, held: Mapping[int, None]) -> int:
        queue = self._queues[source]
        if not queue:
            epoch = self._draws[source] // self.sizes[source]
            generator = np.random.default_rng([self.seed, source, epoch])
            order = generator.permutation(self.sizes[source]) + self._offsets[source]
            queue += order.tolist()
        self._draws[source] += 1
        index = -1
        while queue[index] in held:
            index -= 1
        return queue.pop(index)
