"""A call in a thread of its own, left behind if nobody waits for it any longer."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

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
