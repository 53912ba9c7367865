"""The folder of a run: what is in it, and whether a new start may resume it.

config.yaml                the resolved configuration
metrics.csv                a row per step and per validation
rollouts/step_000001.jsonl every completion of that step
checkpoints/step_N/        `hf/` for `from_pretrained`, `trainer.ckpt` to resume from
checkpoints/best           link to the one with the highest validation accuracy
heartbeat/rank_0.json      what each rank is doing
plots/  summary.json       at the end
"""

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlm_rl.distributed import strategies

CONFIG = "config.yaml"
SUMMARY = "summary.json"
RESUMABLE_KEYS = ("steps", "run_dir", "logging", "checkpoint", "hang_timeout_s")
"""Keys that may change when a run resumes: none of them decides which numbers it computes."""

RESUMABLE_TRAINER_KEYS = ("devices", "num_nodes", "strategy")
"""A run may resume on other ranks: its prompts and updates stay the same, its samples do not."""

_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint of a run: its step and its folder."""

    step: int
    folder: Path

    @property
    def trainer_file(self) -> Path:
        """What the Trainer resumes from; some strategies make it a folder."""
        return self.folder / "trainer.ckpt"


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step_{step}"


def checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Return the complete checkpoints, oldest first. Half-written ones have another name."""
    paths = (run_dir / "checkpoints").glob("*")
    complete = [Checkpoint(int(m[1]), path) for path in paths if (m := _STEP.fullmatch(path.name))]
    return sorted(complete, key=lambda checkpoint: checkpoint.step)


def newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    return next(reversed(checkpoints(run_dir)), None)


def link_best(run_dir: Path, step: int) -> None:
    """Point `checkpoints/best` to the checkpoint of `step`, replacing the link at once."""
    link = run_dir / "checkpoints" / "best"
    partial = link.with_name("best.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(step_folder(run_dir, step).name)
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)  # a copy of a run that followed links has a folder here
    partial.replace(link)


def best_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the checkpoint with the highest validation accuracy."""
    best = (run_dir / "checkpoints" / "best").resolve()
    return next((c for c in checkpoints(run_dir) if c.folder.resolve() == best), None)


def find_resume(run_dir: Path, config: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None for a new run. Writes nothing.

    Raises ValueError, with the ways out, if the folder holds another run, a finished one, a
    damaged checkpoint, or something that is not a run.
    """
    _refuse_unwritable(run_dir)
    if not (run_dir / CONFIG).exists():
        _refuse_other_files(run_dir)
        return None
    _refuse_other_settings(run_dir, config)
    newest = newest_checkpoint(run_dir)
    if newest is None:
        return None
    if newest.step >= config["steps"] and _is_finished(run_dir, newest.step):
        raise ValueError(
            f"run_dir={run_dir} holds a run that has done its {newest.step} steps; "
            f"extend it by --steps {2 * newest.step}, or start a new one by --run_dir NAME"
        )
    _refuse_damaged(newest)
    return newest


def _refuse_other_files(run_dir: Path) -> None:
    # other ranks write their heartbeats before rank 0 has saved the configuration
    if run_dir.is_dir() and any(path.name != "heartbeat" for path in run_dir.iterdir()):
        raise ValueError(
            f"run_dir={run_dir} is not empty and holds no run; give a new name by --run_dir"
        )


def _refuse_other_settings(run_dir: Path, config: Mapping[str, Any]) -> None:
    before = yaml.safe_load((run_dir / CONFIG).read_text())
    changed = list(differences(_compared(before), _compared(config)))
    if config["optimizer"]["schedule"] != "constant":  # the steps shape every other schedule
        changed += differences(before["steps"], config["steps"], "steps")
    if changed:
        raise ValueError(
            f"run_dir={run_dir} holds a run with other settings ({'; '.join(changed[:3])}); "
            "start a new one by --run_dir NAME, or resume with the settings of its config.yaml"
        )


def _is_finished(run_dir: Path, step: int) -> bool:
    """Whether the summary is there: a run may have been stopped after its last step."""
    summary = run_dir / SUMMARY
    return summary.exists() and json.loads(summary.read_text())["steps"] >= step


def _refuse_unwritable(run_dir: Path) -> None:
    """Try to write before anything is loaded; the run would fail at its first step.

    What is tried is a file without a name, which leaves nothing behind.
    """
    existing = run_dir.absolute()
    try:
        existing.lstat()
    except (FileNotFoundError, NotADirectoryError):
        while not os.path.lexists(existing):
            existing = existing.parent
    except OSError as error:
        raise ValueError(_unwritable(run_dir, f"is no path: {error.strerror}")) from error
    if not existing.is_dir():
        kind = "a link to nothing" if existing.is_symlink() and not existing.exists() else "a file"
        raise ValueError(_unwritable(run_dir, f"{existing} is {kind}, not a folder"))
    for folder in _written_folders(existing if existing != run_dir.absolute() else run_dir):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = f"this user cannot write into {folder} ({error.strerror})"
            raise ValueError(_unwritable(run_dir, reason)) from error


def _written_folders(existing: Path) -> Iterator[Path]:
    """Yield a folder, and those in it that a run writes into."""
    yield existing
    for name in ("checkpoints", "heartbeat", "plots", "rollouts", "wandb"):
        if (existing / name).is_dir():
            yield existing / name


def _unwritable(run_dir: Path, reason: str) -> str:
    return f"run_dir={run_dir}: {reason}; give another by --run_dir"


def _refuse_damaged(checkpoint: Checkpoint) -> None:
    """Raise ValueError if a byte has changed since it was written.

    torch ignores the checksums of its archives and would resume with wrong weights.
    """
    for file in strategies.checkpoint_files(checkpoint.trainer_file):
        damage = _damage(file)
        if damage is not None:
            raise ValueError(
                f"{file} is damaged ({damage}); delete the folder {checkpoint.folder} to resume "
                "from the checkpoint before it, or from the start if there is none"
            )
    strategies.check_safe(checkpoint.trainer_file)


def _damage(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip()
    # a broken directory can also ask for encryption, unknown compression or unknown characters
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        return str(error)


def check_same(folder: Path, config: Mapping[str, Any], resumable: Collection[str]) -> None:
    """Raise ValueError unless `folder` is new or holds an evaluation with the same configuration.

    Keys in `resumable` may differ.
    """
    saved = folder / CONFIG
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output={folder} is a file; give a folder")
    if saved.exists():
        before, now = (
            {key: value for key, value in side.items() if key not in resumable}
            for side in (yaml.safe_load(saved.read_text()), config)
        )
        changed = list(differences(before, now))
        if changed:
            raise ValueError(
                f"output={folder} holds an evaluation with other settings "
                f"({'; '.join(changed[:3])}); give another by --output, or delete it"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"output={folder} is not empty and holds no evaluation; name another")


def save_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Keep the resolved configuration with the run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    partial = run_dir / f"{CONFIG}.partial"  # a kill must not leave half of it
    partial.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    partial.rename(run_dir / CONFIG)


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that must stay the same."""
    compared = {key: value for key, value in config.items() if key not in RESUMABLE_KEYS}
    trainer = dict(compared.get("trainer", {}))
    if not strategies.fixes_num_ranks(str(trainer.get("strategy"))):
        trainer = {k: v for k, v in trainer.items() if k not in RESUMABLE_TRAINER_KEYS}
    return compared | {"trainer": trainer}


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Yield `key: old -> new` for every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted(before.keys() | now.keys()):
            inner = f"{key}.{name}" if key else name
            yield from differences(before.get(name), now.get(name), inner)
    elif before != now:
        yield f"{key}: {before} -> {now}"
