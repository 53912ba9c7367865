"""Runs of W&B, which keep all their files inside a given folder."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only

from vlm_rl import ranks
from vlm_rl.disk.files import Damaged, read_text, write_text
from vlm_rl.show.plain import one_line, visible_in
from vlm_rl.show.screen import say
from vlm_rl.trackers.steady_wandb import FINISH_S, START_S, SteadyWandb, check_login

WandbMode = Literal["offline", "online", "off"]
_ID = re.compile(r"[0-9a-f]{8}")


def wandb_runs(
    folder: Path,
    mode: WandbMode,
    project: str,
    config: Mapping[str, Any],
    *,
    one_run: bool = False,
) -> list[SteadyWandb]:
    """Return one logger, or none if `mode` is off.

    With `one_run` every start in this folder belongs to the same run of W&B. Online it resumes;
    offline each start has its own folder, with the same id.
    """
    if mode == "off":
        return []
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")  # the last screen names the folder
    for kind in ("DATA", "CACHE", "CONFIG"):  # the default is the home folder
        if kind != "CONFIG" or not _has_settings():
            os.environ[f"WANDB_{kind}_DIR"] = str(folder / "wandb")
    return [
        SteadyWandb(
            name=one_line(folder.name),
            project=one_line(project),
            save_dir=folder,
            offline=mode == "offline",
            id=_run_id(folder / "wandb") if one_run else None,
            resume="allow" if one_run and mode == "online" else None,
            config=visible_in(dict(config)),
            settings=wandb.Settings(
                init_timeout=START_S, finish_timeout=FINISH_S, finish_timeout_raises=True
            ),
        )
    ]


def _has_settings() -> bool:
    """Whether the user has told W&B of a server or an entity, which are in its config folder."""
    own = os.environ.get("WANDB_CONFIG_DIR", Path.home() / ".config" / "wandb")
    return (Path(own) / "settings").is_file()


def check_wandb(mode: WandbMode) -> None:
    """Check, before anything is read, that W&B takes this run. Raises ValueError."""
    if mode == "online" and ranks.is_zero():
        os.environ.setdefault("WANDB_SILENT", "true")
        check_login()


@rank_zero_only
def _run_id(folder: Path) -> str:
    """Return the id in `run_id`, drawn at the first start; only rank 0 has a run of W&B."""
    file = folder / "run_id"
    if os.path.lexists(file):
        try:
            kept = read_text(file)
            if _ID.fullmatch(kept):
                return kept
            raise Damaged(file, f"{kept!r:.40} is not an id")
        except Damaged as damage:
            say(f"{damage}; the run gets a new id, so W&B shows what follows as another run")
    drawn = secrets.token_hex(4)
    write_text(file, drawn)
    return drawn
