"""The interface of methods that change completions after they were sampled and judged."""

from abc import ABC, abstractmethod
from typing import Any

from vlm_rl.records import Groups, Rollout


class RolloutEdit(ABC):
    """Changes completions of a training step. It has no state.

    It is asked in each round of sampling for the judged groups of this rank, before a filter
    chooses among them. A group with a completion that is another object than before is judged
    again. Validations, benchmarks and the problems that a shaping monitors are never edited.
    """

    def check(self, group_size: int, train_on_truncated: bool) -> None:  # noqa: B027
        """Refuse, before a model is loaded, a run in which this edit does nothing. Raises
        ValueError."""

    @abstractmethod
    def __call__(self, rollout: Rollout, tokenizer: Any) -> Groups:
        """Return [P][G] completions in the order of `rollout`, from each group alone.

        Return the same object for each completion that stays; `vlm_rl.rollout.shortened` makes one
        that ends earlier. `tokenizer` is that of the policy. The state of a run must not matter: a
        run may be stopped in a step, and then does it again.
        """
