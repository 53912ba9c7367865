"""Wait for a call that has a limit of its own."""

from concurrent.futures import Future, wait

from vlm_rl.processes.background import Returned
from vlm_rl.rollout.watchdog import touch_all


def awaited(result: Future[Returned]) -> Returned:
    """Return what a call with a limit of its own returns: the wait for it is no silence."""
    while not result.done():
        touch_all()
        wait([result], timeout=1.0)
    return result.result()
