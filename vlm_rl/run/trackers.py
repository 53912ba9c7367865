"""TensorBoard and MLflow beside metrics.csv and W&B: the same names, with `step` as the axis."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from PIL import Image

from vlm_rl.disk.files import read_text, write_text
from vlm_rl.show.markdown import table
from vlm_rl.show.plain import one_line

Tracker = Literal["tensorboard", "mlflow"]
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
RUN_ID = "mlflow_run_id"
"""File in the run's folder: the run of MLflow to which every start in it belongs."""


def check_trackers(names: Sequence[Tracker]) -> None:
    """Check that the packages of these trackers are here. Raises ValueError."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(
                f"logging.trackers: {name} needs its package: pip install {PACKAGES[name]}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"logging.trackers={[*names]} names one twice; keep one")


def tracker_loggers(
    names: Sequence[Tracker], run_dir: Path, project: str, resume_step: int = 0
) -> list[Logger]:
    """Return a logger for each name. A run that resumes goes on in the same run of each."""
    made = {"tensorboard": _tensorboard, "mlflow": _mlflow}
    return [made[name](run_dir, project, resume_step) for name in names]


def _tensorboard(run_dir: Path, project: str, resume_step: int) -> Logger:
    return TensorBoardLogger(
        run_dir,
        name="tensorboard",
        version="",
        default_hp_metric=False,
        # what a killed run wrote after its checkpoint is computed and written again
        purge_step=resume_step + 1 if resume_step else None,
    )


def _mlflow(run_dir: Path, project: str, resume_step: int) -> Logger:
    """Write to `mlflow.db` in the run's folder, or to the server that MLFLOW_TRACKING_URI names."""
    own = f"sqlite:///{run_dir.resolve() / 'mlflow.db'}"
    server = os.environ.get("MLFLOW_TRACKING_URI")
    file = run_dir / RUN_ID
    logger = MLFlowLogger(
        experiment_name=one_line(project),
        run_name=one_line(run_dir.name),
        artifact_location=None if server else (run_dir.resolve() / "mlruns").as_uri(),
        tracking_uri=server or own,
        run_id=read_text(file).strip() if file.exists() else None,
    )
    write_text(file, str(logger.run_id))
    return logger


def show_samples(
    logger: Logger, step: int, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Log a table of samples. A cell that is an image stands beside it, numbered by its row."""
    text = str(table(columns, [[_text(cell) for cell in row] for row in rows]))
    if isinstance(logger, TensorBoardLogger):
        writer = logger.experiment
        writer.add_text("samples", text, step)
        for number, image in _images(rows):
            writer.add_image(
                f"samples/{number}", np.asarray(image.convert("RGB")), step, dataformats="HWC"
            )
    elif isinstance(logger, MLFlowLogger):
        client, run = logger.experiment, logger.run_id
        client.log_text(run, text, f"samples/step_{step:06d}.md")
        for number, image in _images(rows):
            client.log_image(run, image, f"samples/step_{step:06d}_{number}.png")


def show_alert(logger: Logger, step: int, title: str, text: str) -> None:
    """Log a warning where these trackers show text."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(f"health/{title}", text, step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.set_tag(logger.run_id, f"health.{title}", text)


def _images(rows: Sequence[Sequence[Any]]) -> list[tuple[int, Image.Image]]:
    return [
        (n, cell) for n, row in enumerate(rows) for cell in row if isinstance(cell, Image.Image)
    ]


def _text(cell: Any) -> Any:
    return "" if cell is None or isinstance(cell, Image.Image) else cell
