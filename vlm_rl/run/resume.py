"""Resuming from a checkpoint: whether it belongs to this run, and what its step still owes."""

from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.data.datamodule import ProblemData
from vlm_rl.distributed import strategies
from vlm_rl.run import folder as run_folder
from vlm_rl.run.checkpoints import ROWS
from vlm_rl.training.module import RLModule


class Resume(NamedTuple):
    """The step of a checkpoint, and how many rows metrics.csv had then; None if it does not say."""

    step: int
    metrics_rows: int | None


def check_fits(checkpoint: run_folder.Checkpoint, module: RLModule, data: ProblemData) -> Resume:
    """Refuse the checkpoint of another model, of other data, or of an older version.

    Raises ValueError with one line.
    """
    file = checkpoint.trainer_file
    try:
        saved = strategies.read_checkpoint(file)
    except FileNotFoundError as error:
        raise ValueError(f"{file} is not a checkpoint of this run: {error}") from error
    own: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    module.on_save_checkpoint(own)  # leaves out what such a run does not keep
    _check_kinds(file, saved, {"vlm_rl": {}})
    _check_kinds(file, saved["vlm_rl"], own["vlm_rl"])
    _check_kinds(file, saved, {type(data).__name__: {}})
    _check_kinds(file, saved[type(data).__name__], {"order": {}, "completed_steps": 0})
    _check_kinds(file, {ROWS: checkpoint.step} | saved, {ROWS: checkpoint.step})
    if "state_dict" in saved:
        _check_kinds(file, saved, {"state_dict": {}})
        before = {"state_dict": saved["state_dict"]}
        module.on_save_checkpoint(before)  # a strategy may have kept more
        _check_weights(file, before["state_dict"], own["state_dict"])
    try:
        data.load_state_dict(saved[type(data).__name__])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return Resume(checkpoint.step, saved.get(ROWS))


def _check_kinds(file: Path, saved: Any, own: dict[str, Any]) -> None:
    """Compare the names and types of a state with those of this run."""
    refusal = (
        "without which the run would not resume as it began; start a new run from its weights by "
        f"--policy.path {file.parent / 'hf'}"
    )
    if not isinstance(saved, dict):
        raise ValueError(f"{file} holds {saved!r:.40} for its state, {refusal}")
    missing = own.keys() - saved.keys()
    if missing:
        raise ValueError(
            f"{file} was written by another version: it lacks {', '.join(sorted(missing))}, "
            f"{refusal}"
        )
    for name, value in own.items():
        if value is not None and not isinstance(saved[name], type(value)):
            kind = type(value).__name__
            raise ValueError(f"{file} holds {saved[name]!r:.40} for {name}: no {kind}, {refusal}")


def _check_weights(checkpoint: Path, saved: dict[str, Any], own: dict[str, Any]) -> None:
    def refusal(what: str) -> ValueError:
        return ValueError(
            f"{checkpoint} is of another model than policy.path: {what}; give the policy that the "
            "run began with, or start a new run by --run_dir NAME"
        )

    for name in sorted(saved.keys() ^ own.keys()):
        raise refusal(f"only {'the checkpoint' if name in saved else 'the policy'} has {name}")
    for name, value in own.items():
        if not isinstance(saved[name], Tensor):
            raise refusal(f"{name} is no tensor")
        before, now = list(saved[name].shape), list(value.shape)
        if before != now:
            raise refusal(f"{name} has shape {before} in the checkpoint, {now} in the policy")


class SameStep(L.Callback):
    """Refuse to go on if the ranks have not resumed from one checkpoint. Must be the first."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        assert isinstance(module, RLModule)
        steps = ranks.gather(module.completed_steps)
        if len(set(steps)) > 1:
            raise ValueError(
                f"the ranks resume from different steps ({', '.join(map(str, steps))}): not all "
                "see the newest checkpoint in run_dir yet; start again"
            )


class OwedWork(L.Callback):
    """Do what the checkpoint's step still owes: its validation, and the end after the last step.

    Must come after the benchmarks, which also come first in a step, so that the rows of metrics.csv
    have the same order.
    """

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        assert isinstance(module, RLModule)
        if module.completed_steps == 0:
            return
        trainer.should_stop = module.completed_steps >= module.steps
        validated = {row["step"] for row in module.validation_history}
        if module.validates_now and any(trainer.num_val_batches):
            if module.completed_steps in validated:
                return
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False  # from its first batch
            trainer.validating = True
            loop.run()
            trainer.training = True
