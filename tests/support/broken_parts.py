"""Engines and rewards of a user's own that break their contract at a step of a real run."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm_rl.objectives import LUSPO
from vlm_rl.objectives.state import Stateful
from vlm_rl.objectives.surrogates import Clipped
from vlm_rl.records import Completion, Groups, Problem, Prompt
from vlm_rl.rewards import RewardTerm
from vlm_rl.rollout import Sampling, TransformersEngine


class BrokenEngine(TransformersEngine):
    """Is right `good_calls` times, and then wrong in the way that `fault` names."""

    def __init__(self, fault: str, good_calls: int = 0) -> None:
        super().__init__()
        self.fault = fault
        self.left = good_calls

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        groups: Any = super().generate(prompts, group_size=group_size, sampling=sampling, seed=seed)
        self.left -= 1
        if self.left < 0 and self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return groups if self.left >= 0 else ENGINE_FAULTS[self.fault](groups)


def _raise(error: BaseException) -> Any:
    raise error


def _changed(groups: Any, **changes: Any) -> Any:
    first = groups[0][0]
    values = {name: change(getattr(first, name)) for name, change in changes.items()}
    return [[replace(first, **values), *groups[0][1:]], *groups[1:]]


def _with_logprob(value: float) -> Any:
    return lambda groups: _changed(
        groups, sampling_logprobs=lambda old: torch.full_like(old, value)
    )


def _with_token(token: int) -> Any:
    return lambda groups: _changed(groups, token_ids=lambda old: torch.full_like(old, token))


def _longer(groups: Any) -> Any:
    return _changed(
        groups,
        token_ids=lambda old: old.repeat(99),
        sampling_logprobs=lambda old: old.repeat(99),
    )


ENGINE_FAULTS = {
    "nan": _with_logprob(float("nan")),
    "infinite": _with_logprob(float("-inf")),
    "positive": _with_logprob(0.5),
    "outside": _with_token(10**7),
    "negative": _with_token(-1),
    "placeholder": lambda groups: _with_token(PLACEHOLDER[0])(groups),
    "fewer": lambda groups: [groups[0][:-1], *groups[1:]],
    "more": lambda groups: [[*groups[0], groups[0][0]], *groups[1:]],
    "group missing": lambda groups: groups[1:],
    "nothing": lambda groups: None,
    "texts": lambda groups: [["5" for _ in group] for group in groups],
    "reason": lambda groups: _changed(groups, finish_reason=lambda _: "tired"),
    "longer": _longer,
    "ragged": lambda groups: _changed(groups, sampling_logprobs=lambda old: old[:-1]),
    "half": lambda groups: _changed(groups, sampling_logprobs=lambda old: old.half()),
    "surrogate": lambda groups: _changed(groups, text=lambda old: "\ud800"),
    "not text": lambda groups: _changed(groups, text=lambda old: None),
    "os error": lambda groups: _raise(OSError(5, "Input/output error")),
    "key error": lambda groups: _raise(KeyError("uid")),
    "exit": lambda groups: _raise(SystemExit(7)),
}
PLACEHOLDER = [-1]
"""A vision placeholder of the policy; a test sets it."""


class ShortOfMemory(LUSPO):
    """Finds no memory for its loss after two calls, when there are steps that could be saved."""

    left = 2

    def __call__(self, *batch: Any) -> Any:
        self.left -= 1
        return super().__call__(*batch) if self.left >= 0 else torch.empty(1 << 50)


class KeepsAPath(Clipped, Stateful):
    """Has a state that is not of plain values."""

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {"where": Path("here")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""


class BrokenReward(RewardTerm):
    """Is right `good_calls` times, and then wrong in the way that `fault` names."""

    def __init__(self, fault: str, good_calls: int = 0) -> None:
        super().__init__(1.0)
        self.fault = fault
        self.left = good_calls

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        values = torch.tensor([[float(len(c)) for c in group] for group in groups]).double()
        self.left -= 1
        fault = (REWARD_FAULTS | HARMLESS | NO_PART)[self.fault]
        returned: Any = values if self.left >= 0 else fault(values)
        return returned


class BrokenWhenBuilt(RewardTerm):
    """Is wrong already when it is built."""

    def __init__(self, fault: str) -> None:
        super().__init__(1.0)
        REWARD_FAULTS[fault](torch.zeros(1, 1))

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        raise AssertionError


def _spoilt(value: float) -> Any:
    return lambda values: values.index_put(
        (torch.tensor(0), torch.tensor(1)), torch.tensor(value, dtype=torch.float64)
    )


def _forked(values: Tensor) -> Tensor:
    """Let both processes return."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return values


def _fork_and_raise(values: Tensor) -> Tensor:
    if os.fork() == 0:
        raise ValueError("in the child")
    os.wait()
    return values


HARMLESS = {"forks": _forked, "fork raises": _fork_and_raise}
"""What the run survives."""

NO_PART = {
    "memory": lambda values: torch.empty(1 << 50),
    "python memory": lambda values: [0] * (1 << 60),
}
"""What is no fault of the part's, but of the machine's."""

REWARD_FAULTS = {
    "nan": _spoilt(float("nan")),
    "infinite": _spoilt(float("inf")),
    "shape": lambda values: values[:, :-1],
    "flat": lambda values: values.flatten(),
    "float32": lambda values: values.float(),
    "list": lambda values: values.tolist(),
    "nothing": lambda values: None,
    "graph": lambda values: values.requires_grad_(),
    "error": lambda values: _raise(ZeroDivisionError("division by zero")),
    "exit": lambda values: _raise(SystemExit(7)),
    "_exit": lambda values: os._exit(7),
    "closes": lambda values: os.close(1) or values,
    "closes object": lambda values: sys.stdout.close() or values,
    "moves": lambda values: os.chdir("/") or values,
    "os error": lambda values: _raise(OSError(2, "No such file or directory", "table.json")),
}
