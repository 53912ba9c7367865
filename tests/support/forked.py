"""Real processes that find each other as Lightning's do."""

import os
import signal
import socket
import sys
import traceback
from typing import Any

from lightning.pytorch.utilities import rank_zero_only


def forked(num_processes: int, work: Any, expected: int = 0) -> None:
    """Run `work` in processes that find each other as Lightning's do; raises where one ends with
    another status than `expected`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
            rank_zero_only.rank = rank  # Lightning reads LOCAL_RANK when it is imported
            os._exit(_status(work))
        children.append(child)
    left = set(children)
    while left:
        child, status = os.wait()
        left.discard(child)
        if os.waitstatus_to_exitcode(status) != expected:
            for other in left:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            raise SystemExit(f"process {children.index(child)} of {num_processes}: {status}")


def _status(work: Any) -> int:
    try:
        work()
    except BaseException as error:  # a forked child must not return into its parent's code
        traceback.print_exc()
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    sys.stdout.flush()
    return 0
