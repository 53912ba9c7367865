"""Batches of prompts: encoded in worker processes, and iterated again and again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from vlm_rl.data.prompts import BadProblem, PromptEncoder
from vlm_rl.data.rows import Skipped
from vlm_rl.records import Problem, Prompt


@dataclass(frozen=True)
class PromptDataset(Dataset[Prompt | Skipped]):
    """Problems as prompts, encoded when they are asked for, in worker processes if there are any.

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
    ) -> Iterable[list[Prompt | Skipped]]:
        return DataLoader(
            self,
            batch_sampler=indices,
            collate_fn=list,
            num_workers=num_workers,
            generator=torch.Generator(),  # without it, each start draws a global random number
        )


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
