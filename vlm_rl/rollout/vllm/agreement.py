"""One branch for all processes of a run: what goes wrong with one's engine, all of them hear.

Weights and forwards of a policy that is cut are the work of all processes together. One that alone
started its engine again, or ended, would leave the others waiting.
"""

from collections.abc import Callable
from typing import TypeVar

from vlm_rl import ranks
from vlm_rl.rollout.faults import EngineError, EngineFault

T = TypeVar("T")


def agreed(operation: Callable[[], T]) -> T:
    """The result of this process's `operation`, once it has succeeded on every process.

    Where it raises EngineError on some, all of them raise the gravest of these: an EngineFault only
    where there is nothing else. A process whose engine fails must still go through whatever is
    collective in `operation`.
    """
    if ranks.count() == 1:
        return operation()
    results: list[T] = []
    failure: tuple[type[EngineError], str] | None = None
    try:
        results.append(operation())
    except EngineError as error:
        failure = type(error), str(error)
    failures = [
        (rank, *found) for rank, found in enumerate(ranks.gather(failure)) if found is not None
    ]
    if not failures:
        return results[0]
    rank, kind, text = min(failures, key=lambda found: issubclass(found[1], EngineFault))
    common = kind(f"rank {rank}: {text}")
    common.together = True
    if isinstance(common, EngineFault):
        common.own = failure is not None
    raise common
