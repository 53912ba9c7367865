"""Parts of overlapped runs, and the engines that such a run loses."""

import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.copied_engine import Copied
from tests.support.run_helpers import REWARD_TERMS, EvenTokens, Recorder, command, weights
from vlm_rl import ranks
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import LUSPO
from vlm_rl.records import Completion, Groups, Problem, Prompt, Rollout
from vlm_rl.rollout import Sampling
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.training.dynamic_sampling import GroupFilter
from vlm_rl.training.overlap import OverlappedModule
from vlm_rl.training.step import Step

CORRECTED = {
    "class_path": "vlm_rl.objectives.LUSPO",
    "init_args": {"token_weights": [{"class_path": "vlm_rl.objectives.SequenceTIS"}]},
}
CORRECTED["init_args"]["token_weights"][0]["init_args"] = {"max_weight": 2.0}  # type: ignore[index]


class OverlappedRecorder(Recorder, OverlappedModule):
    """Records also the policy before each step, and how many rollouts run after it."""

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Step]:
        self.began_with: list[dict[str, Tensor]] = getattr(self, "began_with", [])
        self.began_with.append(weights(self.policy))
        return super().training_step(prompts, batch_idx)


class Watched(Copied):
    """Says in `places` which thread sampled, and whether for a rollout that was begun. Refuses
    whatever else is asked of it while one runs."""

    def start(self, *how: Any) -> None:
        self.places: list[tuple[bool, bool]] = []
        self._runs = False
        super().start(*how)

    def begin(self, prompts: Sequence[Prompt], **how: Any) -> Future[list[list[Completion]]]:
        self._runs = True
        return super().begin(prompts, **how)

    def wait(self, rollout: Future[list[list[Completion]]]) -> list[list[Completion]]:
        groups = super().wait(rollout)
        self._runs = False
        return groups

    def update_weights(self, policy: Policy) -> None:
        assert not self._runs, "weights in the middle of a rollout"
        super().update_weights(policy)

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[list[Completion]]:
        assert not self._runs, "another rollout in the middle of one"
        return super().generate(prompts, **how)

    def _sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        on_main = threading.current_thread() is threading.main_thread()
        self.places.append((on_main, self._runs))
        return super()._sample(prompts, group_size, sampling, seed)


class WaitsForUpdate(Copied):
    """Begins the rollout of each step but the first once the step before it is in its update."""

    in_update = threading.Event()
    num_begun = 0

    def start(self, *how: Any) -> None:
        self.in_update.clear()
        super().start(*how)

    def _sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        if threading.current_thread() is not threading.main_thread():
            self.num_begun += 1
            if self.num_begun > 1:
                self.in_update.wait()
                self.in_update.clear()
        return super()._sample(prompts, group_size, sampling, seed)


class SaysUpdate(LUSPO):
    def __call__(self, *batch: Any) -> Any:
        WaitsForUpdate.in_update.set()
        return super().__call__(*batch)


class DropsFirst(GroupFilter):
    """Drops the first of several groups."""

    def keep(self, rollout: Rollout) -> Tensor:
        return torch.arange(len(rollout.prompts)) >= min(1, len(rollout.prompts) - 1)


class Faulty(Copied):
    """Fails on `rank` in those rollouts that are begun whose numbers, from 0, are in `faults`."""

    def __init__(self, faults: list[int], **how: Any) -> None:
        super().__init__(**how)
        self.faults = faults
        self.num_begun = -1

    def begin(self, prompts: Sequence[Prompt], **how: Any) -> Future[list[list[Completion]]]:
        self.num_begun += 1
        return super().begin(prompts, **how)

    def _sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        mine = self.rank == ranks.rank()
        if mine and group_size > 1 and self.num_begun in self.faults:
            self.faults.remove(self.num_begun)
            raise EngineFault("broken on purpose")
        return super()._sample(prompts, group_size, sampling, seed)


class SignalsOnce(EvenTokens):
    """Sends SIGTERM to the last rank in its `at`th call, unless `marker` exists; creates it."""

    def __init__(self, marker: str, at: int) -> None:
        super().__init__()
        self.marker = Path(marker)
        self.left = at

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        self.left -= 1
        if self.left == 0 and ranks.rank() == ranks.world_size() - 1 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(problems, groups)


def engine(policy: Path, class_name: str = "overlapping.Watched", **how: Any) -> str:
    """Return the option for an engine of this folder."""
    arguments = {"checkpoint": str(policy), "rank": 0, "breaks_after": []} | how
    return json.dumps({"class_path": f"tests.support.{class_name}", "init_args": arguments})


def overlapped(
    policy: Path,
    data: Path,
    run_dir: Path,
    *more: str,
    staleness: int | None = 1,
    terms: Mapping[str, Any] = REWARD_TERMS,
    **overrides: object,
) -> list[str]:
    """Return the command line of a small overlapped run; a synchronous one if `staleness` is
    None."""
    values: dict[str, object] = {
        "engine": engine(policy),
        "objective": json.dumps(CORRECTED),
        "reward.terms": json.dumps(terms),
        "validation.every_n_steps": 3,
        "checkpoint.every_n_steps": 2,
        "checkpoint.keep_last": 9,
        "data.val_problems": 4,
        "validation.greedy": "false",
    }
    if staleness is not None:
        values["overlap.staleness"] = staleness
    return command(policy, data, run_dir, *more, **values | overrides)
