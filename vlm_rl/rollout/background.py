"""A call in a thread of its own, left behind if nobody waits for it any longer."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

from vlm_rl.rollout.watchdog import touch_all

Returned = TypeVar("Returned")


def begun(call: Callable[[], Returned]) -> Future[Returned]:
    """Begin `call()`; its result or whatever it raises is the future's."""
    result: Future[Returned] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # whatever it is, the other thread waits for it
            result.set_exception(error)

    Thread(target=run, daemon=True).start()
    return result


def awaited(result: Future[Returned]) -> Returned:
    """Return what a call with a limit of its own returns: the wait for it is no silence."""
    while not result.done():
        touch_all()
        wait([result], timeout=1.0)
    return result.result()
