"""All that a run is made of, between its checks and its first step."""

from typing import Any, NamedTuple

import lightning as L
from jsonargparse import Namespace

from vlm_rl.data.datamodule import ProblemData
from vlm_rl.run import folder
from vlm_rl.run.checkpoints import Checkpoints
from vlm_rl.run.length_gradients import LengthGradients
from vlm_rl.run.resume import Resume
from vlm_rl.run.samples import RolloutFiles
from vlm_rl.training.module import RLModule


class Job(NamedTuple):
    """A run that has passed all checks and has not begun."""

    config: Namespace
    resolved: dict[str, Any]
    parts: Namespace
    trainer: L.Trainer
    data: ProblemData
    module: RLModule
    rollouts: RolloutFiles
    gradients: LengthGradients
    benchmarks: list[L.Callback]
    checkpoints: Checkpoints
    newest: folder.Checkpoint | None
    resume: Resume | None
