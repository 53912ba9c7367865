"""TensorBoard: event files in `tensorboard/` of the run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from vlm_rl.trackers.tracker import TableRows, Tracker, images, text_table

CODE = " " * 4
"""Before a line of Markdown that is shown as it is."""


class TensorBoard(TensorBoardLogger, Tracker):
    """Tables and alerts are texts, images stand beside their table, numbered by row."""

    def __init__(
        self, run_dir: Path, project: str, config: Mapping[str, Any], resume_step: int
    ) -> None:
        super().__init__(
            run_dir,
            name="tensorboard",
            version="",
            default_hp_metric=False,
            # what a killed run wrote after its checkpoint is computed and written again
            purge_step=resume_step + 1 if resume_step else None,
        )
        if not resume_step:
            self.experiment.add_text("config", indent(yaml.safe_dump({**config}), CODE), 0)

    def show_samples(self, step: int, columns: Sequence[str], rows: TableRows) -> None:
        self.experiment.add_text("samples", text_table(columns, rows), step)
        for number, image in images(rows):
            pixels = np.asarray(image.convert("RGB"))
            self.experiment.add_image(f"samples/{number}", pixels, step, dataformats="HWC")

    def show_alert(self, step: int, title: str, text: str) -> None:
        self.experiment.add_text(f"health/{title}", text, step)
