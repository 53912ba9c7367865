"""The trackers by name."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vlm_rl.trackers.tracker import Tracker

TrackerName = Literal["tensorboard", "mlflow", "trackio", "swanlab"]
_CLASSES: dict[str, str] = {
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "trackio": "Trackio",
    "swanlab": "SwanLab",
}
PACKAGES = (*_CLASSES,)
"""Each has the name of its tracker; none is installed with vlm_rl."""


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Check that the packages of these trackers are here. Raises ValueError."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"logging.trackers: {name} needs its package: pip install {name}")
    if len(set(names)) < len(names):
        raise ValueError(f"logging.trackers={[*names]} names one twice; keep one")


def open_trackers(
    names: Sequence[TrackerName],
    run_dir: Path,
    project: str,
    config: Mapping[str, Any],
    resume_step: int = 0,
) -> list[Tracker]:
    """Open each by name. A run that resumes goes on in the same run of each.

    Args:
        config: of the run, as plain values.
        resume_step: the step of the checkpoint from which it goes on, 0 at its first start.
    """
    modules = {name: import_module(f"vlm_rl.trackers.{name}") for name in names}
    return [
        getattr(module, _CLASSES[name])(run_dir, project, config, resume_step)
        for name, module in modules.items()
    ]
