"""A trace of some steps: what ran when on the processor and the GPU, and in which stage."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

from vlm_rl import ranks
from vlm_rl.disk.files import written_whole
from vlm_rl.training.module import RLModule


class Trace(L.Callback):
    """Record `steps` steps with torch's profiler, and write a file of each rank into the folder
    `trace` of the run. The first step of a start is left out: it warms up.

    Recording takes time and memory, so that the steps' own times are longer than without.
    """

    def __init__(self, run_dir: Path, steps: int) -> None:
        self._folder, self._steps = run_dir / "trace", steps
        self._begun = 0
        self._first = 0
        self._profile: profile | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        assert isinstance(module, RLModule)
        self._begun += 1
        if self._steps and self._begun == 2:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()
            self._first = module.completed_steps + 1

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if self._begun == 1 + self._steps:
            self._write(module.completed_steps)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self._write(module.completed_steps)  # of a run that had fewer steps

    def on_exception(self, *_: Any) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self, last: int) -> None:
        if self._profile is None:
            return
        self._profile.stop()
        name = f"steps_{self._first}_to_{last}_rank_{ranks.rank()}.json"
        with written_whole(self._folder / name) as partial:
            self._profile.export_chrome_trace(str(partial))
        self._profile = None
        ranks.print_once(f"trace: {self._folder / name}, to be opened in https://ui.perfetto.dev")
