"""What a process holds, and how often it speaks with the others, seen from its callbacks."""

import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from vlm_rl.model.policy import Policy


class Scales(L.Callback):
    """Bytes that this process holds: of weights when the policy has come from its folder
    (`loaded`) and when it is spread, and, above what it began with, at most until then (`peak`)."""

    def __init__(self) -> None:
        self.read = {"peak": 0}
        self._before = self._held()
        self._done = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self.read["loaded"] = self._weights(module.policy)

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self._done.set()
        self._watching.join()
        self.read["spread"] = self._weights(module.policy)
        self.read["reference"] = self._weights(module.reference.policy)
        trainer.should_stop = True  # before the first step

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.read["peak"] = max(self.read["peak"], self._held() - self._before)

    def _held(self) -> int:
        # not all that is resident: a forked process finds its libraries again page by page
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    def _weights(self, policy: Policy) -> int:
        own = [p.to_local() if isinstance(p, DTensor) else p for p in policy.parameters()]
        return sum(w.nbytes for w in own if not w.is_meta)


class Exchanges(L.Callback):
    """Counts the collectives of pickled objects in each step, its callbacks included."""

    def __init__(self) -> None:
        self.by_step: list[int] = []
        self._calls = 0
        self._gather = torch.distributed.all_gather_object

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        torch.distributed.all_gather_object = self._count

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        torch.distributed.all_gather_object = self._gather

    def _count(self, *args: Any) -> None:
        self._calls += 1
        self._gather(*args)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self._calls = 0

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.by_step.append(self._calls)
