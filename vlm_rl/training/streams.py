"""Random numbers of a run: each stream a function of (seed, step, rank) alone."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """The random numbers of one kind of rollout. With `per_step` they are new at every step;
    otherwise the same at every step, so that curves of validation are comparable."""

    label: str
    per_step: bool = False

    @classmethod
    def training(cls, sampling_round: int) -> "Stream":
        """Numbers of a round of dynamic sampling, from 0."""
        return cls(f"train {sampling_round}" if sampling_round else "train", per_step=True)

    @classmethod
    def monitor(cls, part: int) -> "Stream":
        """Numbers of a part of the problems that a shaping monitors."""
        return cls(f"monitor {part}", per_step=True)

    @classmethod
    def validation(cls, batch_idx: int) -> "Stream":
        """Numbers of a batch of held-out problems."""
        return cls(f"validation {batch_idx}")

    @classmethod
    def benchmark(cls, name: str, first_problem: int) -> "Stream":
        """Numbers of the problems of a benchmark from `first_problem` on."""
        return cls(f"{name} {first_problem}")

    def seed(self, *, seed: int, step: int, rank: int) -> int:
        """Return the seed of an engine, an int64 that is not negative."""
        entropy = [seed, step if self.per_step else 0, rank, *self.label.encode()]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


GREEDY = Stream("greedy")
