"""W&B as a logger of a folder, with all that it writes inside that folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger

WandbMode = Literal["offline", "online", "off"]


def wandb_loggers(
    folder: Path, mode: WandbMode, project: str, config: Mapping[str, Any]
) -> list[WandbLogger]:
    """One, or none where `mode` is off."""
    if mode == "off":
        return []
    os.environ.setdefault("WANDB_SILENT", "true")  # the last screen says where it is
    for kind in ("DATA", "CACHE", "CONFIG"):  # its default is the home folder
        os.environ[f"WANDB_{kind}_DIR"] = str(folder / "wandb")
    offline = mode == "offline"
    return [
        WandbLogger(
            name=folder.name, project=project, save_dir=folder, offline=offline, config=dict(config)
        )
    ]
