"""MLflow: the server that MLFLOW_TRACKING_URI names, else `mlflow.db` in the run's folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

from vlm_rl.disk.files import read_text, write_text
from vlm_rl.show.plain import one_line
from vlm_rl.trackers.tracker import TableRows, Tracker, images, text_table

RUN_ID = "mlflow_run_id"
"""File in the run's folder: the run of MLflow to which every start in it belongs."""


class MLflow(MLFlowLogger, Tracker):
    """Tables and images are artifacts under `samples/`, alerts are tags."""

    def __init__(
        self, run_dir: Path, project: str, config: Mapping[str, Any], resume_step: int
    ) -> None:
        server = os.environ.get("MLFLOW_TRACKING_URI")
        file = run_dir / RUN_ID
        known = read_text(file).strip() if file.exists() else None
        super().__init__(
            experiment_name=one_line(project),
            run_name=one_line(run_dir.name),
            artifact_location=None if server else (run_dir.resolve() / "mlruns").as_uri(),
            tracking_uri=server or f"sqlite:///{run_dir.resolve() / 'mlflow.db'}",
            run_id=known,
        )
        write_text(file, str(self.run_id))
        if known is None:  # MLflow refuses to change a parameter later
            self.log_hyperparams({**config})

    def show_samples(self, step: int, columns: Sequence[str], rows: TableRows) -> None:
        client, run, name = self.experiment, self.run_id, f"samples/step_{step:06d}"
        client.log_text(run, text_table(columns, rows), f"{name}.md")
        for number, image in images(rows):
            client.log_image(run, image, f"{name}_{number}.png")

    def show_alert(self, step: int, title: str, text: str) -> None:
        self.experiment.set_tag(self.run_id, f"health.{title}", text)
