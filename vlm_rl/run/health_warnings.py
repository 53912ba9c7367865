"""What a run says of its health as it trains: a line on the screen, and an alert."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from vlm_rl.health import Health, Illness
from vlm_rl.show.plain import one_line
from vlm_rl.show.screen import Screen
from vlm_rl.trackers import Tracker
from vlm_rl.training.module import RLModule
from vlm_rl.training.step import Step


class HealthWarnings(L.Callback):
    """Print what `health` finds after a step or a validation, once, and send it as an alert.

    What it has seen and said is part of the checkpoint.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._screen = Screen()
        self._validated = -1

    @property
    def findings(self) -> Sequence[Illness]:
        """All findings so far; the same list for the whole run."""
        return self._health.findings

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step: Step = outputs["step"]
        self._observe(trainer, module.completed_steps, step.metrics)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        assert isinstance(module, RLModule)
        if not module.validation_history:
            return
        newest = module.validation_history[-1]
        if newest["step"] == self._validated:
            return  # the run was stopped within this validation
        self._validated = int(newest["step"])
        self._observe(trainer, module.completed_steps, newest)

    def _observe(self, trainer: L.Trainer, step: int, metrics: Mapping[str, float]) -> None:
        for finding in self._health.observe(step, metrics):
            self._say(trainer, finding)

    @rank_zero_only
    def _say(self, trainer: L.Trainer, finding: Illness) -> None:
        self._screen.put(f"health: {finding.line}", style="bold yellow")
        for logger in trainer.loggers:
            if isinstance(logger, Tracker):
                logger.show_alert(finding.step, one_line(finding.title), one_line(finding.line))

    def state_dict(self) -> dict[str, Any]:
        return {"health": self._health.state_dict(), "validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._health.load_state_dict(state_dict["health"])
        self._validated = state_dict["validated"]
