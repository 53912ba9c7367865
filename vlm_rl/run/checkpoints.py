"""Write `checkpoints/step_N/`: `hf/` for `from_pretrained`, `trainer.ckpt` to resume from, and the
checksums of `hf/`.

With LoRA `hf/` holds the adapters only, a hundredth of the base: `from_pretrained` of transformers
and of peft find the base by its name. Merged weights need no peft, but are the whole model again
at each checkpoint, so they are written on request.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError

from vlm_rl import ranks
from vlm_rl.disk.files import PARTIAL, Unwritable
from vlm_rl.distributed import strategies
from vlm_rl.distributed.weights import save_pretrained
from vlm_rl.model.saving import DiskPrecision, check_precision
from vlm_rl.parts import PartError, is_out_of_memory
from vlm_rl.run import folder as run_folder
from vlm_rl.run.metrics_csv import MetricsCsv
from vlm_rl.run.signals import Preempted
from vlm_rl.training.module import RLModule

SCORE = "val/accuracy"
"""The metric that ranks checkpoints."""

ROWS = "metrics_rows"
"""Key of a trainer checkpoint: the number of rows that metrics.csv had then."""


class Checkpoints(L.Callback):
    """Save every `every_n_steps` steps, at the last step, and at a new best validation accuracy.

    `hf_precision` is that of the weights in `hf/`; `trainer.ckpt` always has all of it, so that a
    run goes on exactly. Keeps the `keep_last` newest and the `keep_best` best. The link `best`
    points to the first of the best (the earliest of equal ones; with `keep_best` 0 there is no
    link).

    With the optimizer's two moments a checkpoint is four times the policy's float32 weights (7B:
    133 GB), and all of them would fill a disk. So it keeps the newest to resume from, one more in
    case that one is damaged, and the best. Each is written under another name and renamed when it
    is complete and on the disk, so neither a kill nor a power cut leaves half a checkpoint.
    """

    def __init__(
        self,
        run_dir: Path,
        every_n_steps: int = 20,
        keep_last: int = 2,
        keep_best: int = 1,
        merge_adapter: bool = False,
        hf_precision: DiskPrecision = "source",
    ) -> None:
        least = {"every_n_steps": 1, "keep_last": 1, "keep_best": 0}
        given = {"every_n_steps": every_n_steps, "keep_last": keep_last, "keep_best": keep_best}
        for name, value in given.items():
            if value < least[name]:
                raise ValueError(f"checkpoint.{name} must be >= {least[name]}, got {value}")
        check_precision("checkpoint.hf_precision", hf_precision)
        self.run_dir = run_dir
        self.hf_precision = hf_precision
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.merge_adapter = merge_adapter

    @rank_zero_only
    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Delete what a killed run was still writing or deleting."""
        for leftover in [*self.run_dir.rglob(f"*{PARTIAL}")]:
            _delete(leftover)

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Do what a kill after the newest checkpoint has left undone: the link, the deletions."""
        if module.completed_steps > 0:
            self._tidy(module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Count the rows of metrics.csv that belong to the checkpoint; only rank 0 writes them."""
        tables = [logger for logger in trainer.loggers if isinstance(logger, MetricsCsv)]
        for table in tables:
            table.flush()
        checkpoint[ROWS] = ranks.gather(sum(table.num_rows for table in tables))[0]

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, RLModule)
        if not (module.validates_now and any(trainer.num_val_batches)):
            self._save_if_due(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Save after the validation of a step, so that a resumed run does not repeat it."""
        if not trainer.sanity_checking:
            self._save_if_due(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """Save after a signal, a failed part, such as a rollout engine or a reward, or a lack of
        memory.

        Where these are raised, the weights are those of the last complete step, unless the error
        says otherwise. Saving takes all ranks: a signal stops them together, a part only if its
        error says so.
        """
        if isinstance(exception, PartError) and not (
            exception.unharmed and (exception.together or ranks.world_size() == 1)
        ):
            return
        short = is_out_of_memory(exception)
        if short and (ranks.world_size() > 1 or _may_be_in_an_update(module)):
            return
        if (short or isinstance(exception, PartError | Preempted)) and module.completed_steps > 0:
            saved = {checkpoint.step for checkpoint in run_folder.checkpoints(self.run_dir)}
            # rank 0 decides: on a shared file system the others may see an older folder
            if not ranks.gather(module.completed_steps in saved)[0]:
                _forget_step_in_progress(trainer)
                try:
                    self._save(trainer, module)
                except (MemoryError, RuntimeError) as error:
                    if not (short and is_out_of_memory(error)):
                        raise
                    # what was complete before still is, and the first error says what to lower

    def _save_if_due(self, trainer: L.Trainer, module: RLModule) -> None:
        step = module.completed_steps
        due = step % self.every_n_steps == 0 or step == module.steps
        # a checkpoint that a signal has caused lacks the validation that has been caught up since
        due |= ranks.gather(run_folder.step_folder(self.run_dir, step).exists())[0]
        if due or (self.keep_best and _is_new_best(module)):
            self._save(trainer, module)

    def _save(self, trainer: L.Trainer, module: RLModule) -> None:
        target = run_folder.step_folder(self.run_dir, module.completed_steps)
        with module.clock("checkpoint"), _readable_errors(target):
            # a rename replaces a file; a strategy may write a folder, which is written anew
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
            _save_trainer(trainer, partial / "trainer.ckpt")
            if self.merge_adapter:
                save_pretrained(module.policy, partial / "adapter")
            save_pretrained(
                module.policy,
                partial / "hf",
                merge_adapter=self.merge_adapter,
                precision=self.hf_precision,
            )
            if trainer.is_global_zero:
                module.encoder.processor.save_pretrained(partial / "hf")
                run_folder.write_sums(partial)
                _share(partial)
                _flush(partial)
                _rename(partial, target)
        except BaseException:  # a signal too: leftovers would keep a full disk full
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _save_again(self, trainer: L.Trainer, target: Path) -> None:
        """Write the same weights again, with the validation that was missing the first time."""
        partial = target / "trainer.ckpt.partial"
        try:
            _save_trainer(trainer, partial)
            if trainer.is_global_zero:
                _flush(target)
                partial.replace(target / "trainer.ckpt")
                _flush(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @rank_zero_only
    def _tidy(self, module: RLModule) -> None:
        """Link the best checkpoint and delete those that are neither among the best nor new."""
        complete = run_folder.checkpoints(self.run_dir)
        scores = _scores(module)
        validated = [checkpoint for checkpoint in complete if checkpoint.step in scores]
        validated.sort(key=lambda checkpoint: (-scores[checkpoint.step], checkpoint.step))
        best = validated[: self.keep_best]
        run_folder.link_best(self.run_dir, best[0].step if best else None)
        for checkpoint in complete[: -self.keep_last]:
            if checkpoint not in best:
                _delete(checkpoint.folder)


def _share(folder: Path) -> None:
    """Let others read weights as they read other files: safetensors gives them to their owner."""
    mode = stat.S_IMODE((folder / run_folder.SUMS).stat().st_mode)
    for file in folder.rglob("*.safetensors"):
        file.chmod(mode)


def _may_be_in_an_update(module: RLModule) -> bool:
    """Whether the weights may have changed since the last complete step."""
    return "update" in (module.clock.failed_in, module.clock.activity)


def _save_trainer(trainer: L.Trainer, file: Path) -> None:
    """Write what the Trainer resumes from. Raises Unwritable if a state is not of plain values,
    such as that of an objective of one's own: it would be refused when the run resumes."""
    with _temporary_files_in(file.parent):
        trainer.save_checkpoint(file)
    if file.is_file() and trainer.is_global_zero:
        try:
            strategies.check_safe(file)
        except ValueError as error:
            raise Unwritable(
                f"cannot keep the state of this run as plain values: {error}"
            ) from error


def _scores(module: RLModule) -> dict[int, float]:
    """Return the validation accuracy by step."""
    return {int(row["step"]): row[SCORE] for row in module.validation_history if SCORE in row}


def _is_new_best(module: RLModule) -> bool:
    scores = _scores(module)
    own = scores.pop(module.completed_steps, None)
    return own is not None and all(own > score for score in scores.values())


def _forget_step_in_progress(trainer: L.Trainer) -> None:
    """Undo the count of an unfinished batch.

    Lightning counts a batch when it begins, and would then validate a step early from here on.
    """
    loop = trainer.fit_loop.epoch_loop
    for progress in (loop.batch_progress, loop.val_loop.batch_progress):
        counters: list[Any] = [progress.total, progress.current]
        for counter in counters:
            counter.ready = counter.started = counter.completed = counter.processed


def _rename(partial: Path, target: Path) -> None:
    """Rename a complete checkpoint, and then delete the one that stood there, if any."""
    before = target.with_name(f"{target.name}.before.partial")
    if target.exists():
        target.rename(before)
    partial.rename(target)
    _flush(target.parent)
    if before.exists():
        shutil.rmtree(before)


def _delete(path: Path) -> None:
    """Rename, then delete: a half-deleted folder must not look like a checkpoint."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)  # the process that wrote it may still be alive and delete it
        return
    doomed = path if path.suffix == ".partial" else path.with_name(f"{path.name}.partial")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _flush(folder: Path) -> None:
    """Flush files and names to the disk: a rename may survive a power cut that its files do not."""
    for path in (*(path for path in folder.rglob("*") if not path.is_symlink()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let Lightning write its temporary files into `folder`.

    The system's temporary folder may be small or on another disk, and nobody deletes what a killed
    process leaves there.
    """
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
        raise Unwritable(f"cannot write the checkpoint {target}: {reason}") from error
