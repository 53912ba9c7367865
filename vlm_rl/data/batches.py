"""Batches of prompts: encoded while the batch before is used, and iterated again and again."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from vlm_rl.data.prompts import BadProblem, PromptEncoder
from vlm_rl.data.rows import Skipped
from vlm_rl.parts import PartError
from vlm_rl.records import Problem, Prompt

_WORKER = "DataLoader worker"


class WorkerLost(PartError):
    """A worker process that encodes prompts has ended."""


@dataclass(frozen=True)
class PromptDataset(Dataset[Prompt | Skipped]):
    """Problems as prompts, encoded when they are asked for.

    A failure is returned and not raised, so that the main process decides what follows. `where`
    gives each uid its file and row.
    """

    problems: Sequence[Problem]
    encoder: PromptEncoder
    where: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int) -> Prompt | Skipped:
        problem = self.problems[index]
        try:
            return self.encoder.encode(problem)
        except BadProblem as error:
            where = self.where[problem.uid]
            return Skipped(where, problem.uid, "not encodable", f"{where}: {error}")

    def batches(
        self, indices: Iterable[list[int]], num_workers: int
    ) -> Iterator[list[Prompt | Skipped]]:
        """Yield the batches that `indices` names, in order, encoded in the background.

        Without worker processes a thread is one batch ahead, each of several is two. Raises
        WorkerLost.
        """
        return self._by_processes(indices, num_workers) if num_workers else self._by_thread(indices)

    def _by_thread(self, indices: Iterable[list[int]]) -> Iterator[list[Prompt | Skipped]]:
        # decoding and tokenising leave Python to other threads, and a thread shares all rows
        pool = ThreadPoolExecutor(1, "encoder")
        try:
            before = None
            for batch in indices:
                after = [pool.submit(self.__getitem__, index) for index in batch]
                if before is not None:
                    yield [one.result() for one in before]
                before = after
            if before is not None:
                yield [one.result() for one in before]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # the end waits for no image

    def _by_processes(
        self, indices: Iterable[list[int]], num_workers: int
    ) -> Iterator[list[Prompt | Skipped]]:
        loader = DataLoader(
            self,
            batch_sampler=indices,
            collate_fn=list,
            num_workers=num_workers,
            worker_init_fn=_leave_group,
            generator=torch.Generator(),  # without it, each start draws a global random number
        )
        # torch's handler would raise in whatever the run does when a worker dies; without it the
        # death is found where its batch is waited for
        on_death = signal.getsignal(signal.SIGCHLD)
        batches = iter(loader)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, on_death)
        try:
            yield from batches
        except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
            reason = str(error).partition("\n")[0].rstrip(". ")
            raised_in_worker = reason.startswith("Caught")
            if raised_in_worker or (isinstance(error, RuntimeError) and _WORKER not in reason):
                raise
            if _WORKER not in reason:  # its last batch came, and the memory that it was in is gone
                reason = f"a {_WORKER} has ended"
            raise WorkerLost(
                f"data.num_workers={num_workers}: {reason}, perhaps by a limit on memory; lower "
                "data.num_workers, 0 encodes in a thread of the run"
            ) from error


def _leave_group(_: int) -> None:
    """Leave the process group: Ctrl-C is for the run, which still needs the prompts of its step."""
    os.setpgrp()


@dataclass(frozen=True)
class Batches:
    """Batches that can be iterated again. Lightning would replace the sampler of a DataLoader."""

    start: Callable[[], Iterator[list[Prompt]]]
    length: int | None = None

    def __iter__(self) -> Iterator[list[Prompt]]:
        return self.start()

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("training batches have no end")
        return self.length
