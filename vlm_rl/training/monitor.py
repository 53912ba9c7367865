"""Problems beside the batch, for a shaping that measures the policy."""

from collections.abc import Iterator

from vlm_rl import ranks
from vlm_rl.records import Prompt
from vlm_rl.training.dynamic_sampling import Refill

AT_ONCE = 32
"""Problems of a rank in one rollout: their images are in memory together."""


def shares(number: int, refill: Refill, step: int) -> Iterator[list[Prompt]]:
    """Yield this rank's prompts among `number` different problems, a rollout at a time.

    They follow each other in the order of further problems and are others at each step. Every rank
    gets equally many lists, possibly empty ones. A data set with fewer problems is used whole.
    """
    position, used = step * number, set[str]()
    while number > 0:
        drawn: list[Prompt] = []
        while len(drawn) < min(number, AT_ONCE * ranks.world_size()):
            if (found := refill(position, used)) is None:
                number = len(drawn)
                break
            prompt, position = found
            used.add(prompt.uid)
            drawn.append(prompt)
        if drawn:
            yield drawn[ranks.rank() :: ranks.world_size()]
        number -= len(drawn)
