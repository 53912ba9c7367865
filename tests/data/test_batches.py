"""Prompts that are encoded ahead: how far, where, in which order, and what ends it.

Broken on purpose, one at a time, each seen red: encoding in the caller; all batches submitted at
once; nothing cancelled at the end; a lost worker not named; workers in the group of the run.
"""

import os
import signal
import threading
from collections.abc import Iterator
from itertools import count, islice
from multiprocessing import active_children
from pathlib import Path

import pytest

from tests.support.patience import until
from tests.support.places import TINY_POLICY
from tests.support.problem_data import data, write
from vlm_rl.data.batches import PromptDataset, WorkerLost
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.records import Problem, Prompt


class Watched(PromptEncoder):
    """Writes down what it encodes, and on which thread. Waits before a problem if it is held."""

    def __init__(self) -> None:
        super().__init__(str(TINY_POLICY))
        self.encoded: list[str] = []
        self.threads: set[str] = set()
        self.hold_at = ""
        self.go_on = threading.Event()

    def encode(self, problem: Problem) -> Prompt:
        if problem.uid == self.hold_at:
            self.go_on.wait()
        prompt = super().encode(problem)
        self.threads.add(threading.current_thread().name)
        self.encoded.append(problem.uid)
        return prompt


@pytest.fixture
def encoder() -> PromptEncoder:
    return PromptEncoder(str(TINY_POLICY))


def problems(number: int) -> list[Problem]:
    return [Problem(f"p{i}", f"{i}?", "1") for i in range(number)]


def pairs() -> Iterator[list[int]]:
    return ([i, i + 1] for i in count(0, 2))


def test_a_thread_is_one_batch_ahead_and_not_more() -> None:
    encoder = Watched()
    batches = PromptDataset(problems(20), encoder, {}).batches(pairs(), num_workers=0)
    for step in range(3):
        assert [item.uid for item in next(batches)] == [f"p{2 * step}", f"p{2 * step + 1}"]
        wanted = [f"p{i}" for i in range(2 * step + 4)]
        until(lambda wanted=wanted: encoder.encoded == wanted)
    assert encoder.threads == {"encoder_0"}
    batches.close()
    assert len(encoder.encoded) == 8


def test_what_is_asked_for_is_not_kept_back_by_the_batch_after() -> None:
    encoder = Watched()
    encoder.hold_at = "p2"
    batches = PromptDataset(problems(20), encoder, {}).batches(pairs(), num_workers=0)
    assert [item.uid for item in next(batches)] == ["p0", "p1"]
    batches.close()  # nor does the end wait for it
    encoder.go_on.set()
    until(lambda: not any(thread.name == "encoder_0" for thread in threading.enumerate()))
    assert encoder.encoded == ["p0", "p1", "p2"]  # p3 waited behind p2, and was called off


def test_the_last_batch_of_a_finite_order_comes() -> None:
    dataset = PromptDataset(problems(3), Watched(), {})
    for indices in ([], [[0]], [[0, 1], [2]]):
        given = [[int(item.uid[1:]) for item in batch] for batch in dataset.batches(indices, 0)]
        assert given == indices


def test_threads_and_processes_give_the_same_prompts(
    tmp_path: Path, encoder: PromptEncoder
) -> None:
    path = write(tmp_path, 9)
    steps = []
    for num_workers in (0, 2):
        batches = iter(data(encoder, path, num_workers=num_workers).train_dataloader())
        steps.append([[(p.uid, p.token_ids.tolist()) for p in b] for b in islice(batches, 5)])
        batches.close()
    assert steps[0] == steps[1]


def test_a_worker_that_is_killed_is_named_in_one_line(
    tmp_path: Path, encoder: PromptEncoder
) -> None:
    batches = iter(data(encoder, write(tmp_path, 9), num_workers=1).train_dataloader())
    next(batches)
    (worker,) = active_children()
    assert os.getpgid(worker.pid) != os.getpgrp()  # Ctrl-C in a terminal is for the run alone
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(
        WorkerLost, match=r"data\.num_workers=1: .*DataLoader worker .*; lower"
    ) as end:
        list(batches)
    assert "\n" not in str(end.value)
