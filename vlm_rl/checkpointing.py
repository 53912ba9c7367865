"""Writes `checkpoints/step_N/`: `hf/` for `from_pretrained`, `trainer.ckpt` to go on from.

Of a policy with LoRA adapters `hf/` holds these alone, a hundredth of the base: `from_pretrained`
of transformers and of peft find the base by its name. Merged into a checkpoint that needs no peft
they are on request only, since that is the whole model again, each time.
"""

import shutil
from pathlib import Path
from typing import Any

import lightning as L

from vlm_rl import runs
from vlm_rl.module import RLModule
from vlm_rl.rollout import EngineError


class Checkpoints(L.Callback):
    """Saves every `every_n_steps` steps and at the last one, and keeps the `keep` newest.

    A checkpoint is written under another name and renamed when complete, so that a kill never
    leaves half of one to go on from. With `merge_adapter` `hf/` is base and LoRA adapter in one,
    and `adapter/` the adapter alone.
    """

    def __init__(
        self,
        run_dir: Path,
        every_n_steps: int = 20,
        keep: int = 2,
        merge_adapter: bool = False,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("keep", keep)):
            if value < 1:
                raise ValueError(f"checkpoint.{name} must be >= 1, got {value}")
        self.run_dir = run_dir
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.merge_adapter = merge_adapter

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
        """Nothing is lost with a rollout engine: weights are those of the last complete step."""
        if isinstance(exception, EngineError) and module.completed_steps > 0:
            done = {step for step, _ in runs.checkpoints(self.run_dir)}
            if module.completed_steps not in done:
                self._save(trainer, module)

    def _save_if_due(self, trainer: L.Trainer, module: RLModule) -> None:
        step = module.completed_steps
        if step % self.every_n_steps == 0 or step == module.steps:
            self._save(trainer, module)

    def _save(self, trainer: L.Trainer, module: RLModule) -> None:
        with module.stages("checkpoint"):
            target = runs.step_folder(self.run_dir, module.completed_steps)
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            trainer.save_checkpoint(partial / "trainer.ckpt")
            if self.merge_adapter:
                module.policy.save(partial / "adapter")
                module.policy.save_merged(partial / "hf")
            else:
                module.policy.save(partial / "hf")
            module.encoder.processor.save_pretrained(partial / "hf")
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            for _, old in runs.checkpoints(self.run_dir)[: -self.keep]:
                shutil.rmtree(old)
