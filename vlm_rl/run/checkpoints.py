"""Writes `checkpoints/step_N/`: `hf/` for `from_pretrained`, `trainer.ckpt` to go on from.

Of a policy with LoRA adapters `hf/` holds these alone, a hundredth of the base: `from_pretrained`
of transformers and of peft find the base by its name. Merged into a checkpoint that needs no peft
they are on request only, since that is the whole model again, each time.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError

from vlm_rl import ranks
from vlm_rl.distributed.weights import save_pretrained
from vlm_rl.rollout import EngineError
from vlm_rl.run import folder as run_folder
from vlm_rl.run.signals import Preempted
from vlm_rl.training.module import RLModule

SCORE = "val/accuracy"
"""What the best checkpoint is best in."""


class Unwritable(RuntimeError):
    """A checkpoint could not be written; what was complete before still is."""


class Checkpoints(L.Callback):
    """Saves every `every_n_steps` steps, at the last one, and where the validation accuracy is
    above every earlier one. Keeps the `keep_last` newest, and the `keep_best` best with the link
    `best` to the first of them (of equal ones the earliest; 0: neither).

    With the optimizer's two moments a checkpoint is four times the policy's float32 weights (7B:
    112 GB), so that all of them would fill a disk: the newest to go on from, one more should that
    be damaged, and the best. It is written under another name and renamed when it is complete and
    on the disk, so that neither a kill nor a power cut leaves half of one to go on from.
    """

    def __init__(
        self,
        run_dir: Path,
        every_n_steps: int = 20,
        keep_last: int = 2,
        keep_best: int = 1,
        merge_adapter: bool = False,
    ) -> None:
        least = {"every_n_steps": 1, "keep_last": 1, "keep_best": 0}
        given = {"every_n_steps": every_n_steps, "keep_last": keep_last, "keep_best": keep_best}
        for name, value in given.items():
            if value < least[name]:
                raise ValueError(f"checkpoint.{name} must be >= {least[name]}, got {value}")
        self.run_dir = run_dir
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.merge_adapter = merge_adapter

    @rank_zero_only
    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """What a killed run was still writing or deleting is of no use to anyone."""
        for leftover in [
            *self.run_dir.glob("*.partial"),
            *self.run_dir.glob("*/*.partial"),
            *self.run_dir.glob("checkpoints/*/*.partial"),
        ]:
            _delete(leftover)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, RLModule)
        if not (module.validates_now and any(trainer.num_val_batches)):
            self._save_if_due(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """A checkpoint holds the validation of its step: a run that goes on does not repeat it."""
        if not trainer.sanity_checking:
            self._save_if_due(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """Nothing is lost by a signal or with a rollout engine: where these are raised, the weights
        are those of the last complete step. A checkpoint is the work of all processes, which
        a signal stops together, and an engine where its error says so."""
        if isinstance(exception, EngineError) and ranks.world_size() > 1 and not exception.together:
            return
        if isinstance(exception, EngineError | Preempted) and module.completed_steps > 0:
            done = {step for step, _ in run_folder.checkpoints(self.run_dir)}
            # as the first process sees it: a shared folder may show the others what it was before
            if not ranks.gather(module.completed_steps in done)[0]:
                _forget_the_step_in_progress(trainer)
                self._save(trainer, module)

    def _save_if_due(self, trainer: L.Trainer, module: RLModule) -> None:
        step = module.completed_steps
        due = step % self.every_n_steps == 0 or step == module.steps
        # one that a signal has written lacks the validation that was made up for since
        due |= ranks.gather(run_folder.step_folder(self.run_dir, step).exists())[0]
        if due or (self.keep_best and _is_new_best(module)):
            self._save(trainer, module)

    def _save(self, trainer: L.Trainer, module: RLModule) -> None:
        target = run_folder.step_folder(self.run_dir, module.completed_steps)
        with module.clock("checkpoint"), _readable_errors(target):
            # that of DeepSpeed is a folder, which no rename replaces
            if ranks.gather((target / "trainer.ckpt").is_file())[0]:
                self._save_again(trainer, target)
            else:
                self._save_new(trainer, module, target)
            self._tidy(module)
            ranks.barrier()

    def _save_new(self, trainer: L.Trainer, module: RLModule, target: Path) -> None:
        partial = target.with_name(f"{target.name}.partial")
        try:
            if trainer.is_global_zero:
                partial.mkdir(parents=True, exist_ok=True)
            ranks.barrier()
            with _temporary_files_in(partial):
                trainer.save_checkpoint(partial / "trainer.ckpt")
            if self.merge_adapter:
                save_pretrained(module.policy, partial / "adapter")
                save_pretrained(module.policy, partial / "hf", merge_adapter=True)
            else:
                save_pretrained(module.policy, partial / "hf")
            if trainer.is_global_zero:
                module.encoder.processor.save_pretrained(partial / "hf")
                _flush(partial)
                _rename(partial, target)
        except BaseException:  # also a signal: what is left of it would keep a full disk full
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _save_again(self, trainer: L.Trainer, target: Path) -> None:
        """The same weights, with the validation that the first time it was too early for."""
        partial = target / "trainer.ckpt.partial"
        try:
            with _temporary_files_in(target):
                trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                _flush(target)
                partial.replace(target / "trainer.ckpt")
                _flush(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @rank_zero_only
    def _tidy(self, module: RLModule) -> None:
        """Point to the best checkpoint and delete those that are neither good nor new."""
        complete = run_folder.checkpoints(self.run_dir)
        scores = _scores(module)
        validated = [(step, path) for step, path in complete if step in scores]
        validated.sort(key=lambda found: (-scores[found[0]], found[0]))
        best = validated[: self.keep_best]
        if best:
            run_folder.link_best(self.run_dir, best[0][0])
        for step, path in complete[: -self.keep_last]:
            if (step, path) not in best:
                _delete(path)


def _scores(module: RLModule) -> dict[int, float]:
    """Validation accuracy by step."""
    return {int(row["step"]): row[SCORE] for row in module.validation_history if SCORE in row}


def _is_new_best(module: RLModule) -> bool:
    scores = _scores(module)
    own = scores.pop(module.completed_steps, None)
    return own is not None and all(own > score for score in scores.values())


def _forget_the_step_in_progress(trainer: L.Trainer) -> None:
    """Lightning counts a batch when it begins, and would validate a step early ever after."""
    loop = trainer.fit_loop.epoch_loop
    for progress in (loop.batch_progress, loop.val_loop.batch_progress):
        counters: list[Any] = [progress.total, progress.current]
        for counter in counters:
            counter.ready = counter.started = counter.completed = counter.processed


def _rename(partial: Path, target: Path) -> None:
    """To the place of an earlier one, where there is such, which is deleted after it."""
    before = target.with_name(f"{target.name}.before.partial")
    if target.exists():
        target.rename(before)
    partial.rename(target)
    _flush(target.parent)
    if before.exists():
        shutil.rmtree(before)


def _delete(path: Path) -> None:
    """First by name: what is half deleted must not look like a checkpoint."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)  # a process that is alive may have done with it meanwhile
        return
    doomed = path if path.suffix == ".partial" else path.with_name(f"{path.name}.partial")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _flush(folder: Path) -> None:
    """To the disk, names included: a rename may otherwise survive a power cut that its files do
    not."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Lightning writes to the system's temporary folder first, which may be small or on another
    disk, and where nobody deletes what a killed process has left."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _readable_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unwritable(f"can not write the checkpoint {target}: {reason}") from error
