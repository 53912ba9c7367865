"""The folder of a run: what is in it, and whether a new start may go on with it.

config.yaml                the resolved configuration
metrics.csv                a row per step and per validation
rollouts/step_000001.jsonl every completion of that step
checkpoints/step_N/        `hf/` for `from_pretrained`, `trainer.ckpt` to go on from
checkpoints/best           link to the one with the highest validation accuracy
heartbeat/rank_0.json      what each process is doing
plots/  summary.json       at the end
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CONFIG = "config.yaml"
SUMMARY = "summary.json"
RESUMABLE_KEYS = ("steps", "run_dir", "logging", "checkpoint", "hang_timeout_s")
"""What may differ when a run is taken up again: nothing that decides which numbers it computes."""

RESUMABLE_TRAINER_KEYS = ("devices", "num_nodes", "strategy")
"""A run may go on with other processes: its prompts and updates stay, what is sampled does not."""

_STEP = re.compile(r"step_(\d+)")


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step_{step}"


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, oldest first: (step, folder). Half-written ones have another name."""
    folder = run_dir / "checkpoints"
    found = [(match, path) for path in folder.glob("*") if (match := _STEP.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def link_best(run_dir: Path, step: int) -> None:
    """Let `checkpoints/best` be the checkpoint of `step`, at no moment none."""
    link = run_dir / "checkpoints" / "best"
    partial = link.with_name("best.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(step_folder(run_dir, step).name)
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)  # a folder that was copied without its links holds the copy there
    partial.replace(link)


def best_checkpoint(run_dir: Path) -> tuple[int, Path] | None:
    """The checkpoint with the highest validation accuracy: (step, folder)."""
    link = run_dir / "checkpoints" / "best"
    found = [
        (step, path) for step, path in checkpoints(run_dir) if link.resolve() == path.resolve()
    ]
    return found[0] if found else None


def find_resume(run_dir: Path, config: Mapping[str, Any]) -> tuple[int, Path] | None:
    """Decide between a new run (None) and going on; return the step and the trainer checkpoint
    to go on from. Writes nothing.

    Raises ValueError, with the ways out, where the folder holds another run, a finished one, a
    damaged checkpoint, or something that is not a run.
    """
    _refuse_read_only(run_dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"run_dir={run_dir} is a file; give a folder")
    saved = run_dir / CONFIG
    if not saved.exists():
        # the other processes give signs of life there before the first has saved anything
        if run_dir.is_dir() and any(path.name != "heartbeat" for path in run_dir.iterdir()):
            raise ValueError(
                f"run_dir={run_dir} is not empty and holds no run; give a new name by --run_dir"
            )
        return None
    before = yaml.safe_load(saved.read_text())
    changed = list(differences(_compared(before), _compared(config)))
    if config["optimizer"]["schedule"] != "constant":  # it would have been another one
        changed += differences(before["steps"], config["steps"], "steps")
    if changed:
        raise ValueError(
            f"run_dir={run_dir} holds a run with other settings ({'; '.join(changed[:3])}); "
            "start a new one by --run_dir NAME, or go on with the settings of its config.yaml"
        )
    complete = checkpoints(run_dir)
    if not complete:
        return None
    last, folder = complete[-1]
    if last >= config["steps"] and _is_finished(run_dir, last):
        raise ValueError(
            f"run_dir={run_dir} holds a run that has done its {last} steps; "
            f"extend it by --steps {2 * last}, or start a new one by --run_dir NAME"
        )
    _refuse_damaged(folder / "trainer.ckpt")
    return last, folder / "trainer.ckpt"


def _is_finished(run_dir: Path, step: int) -> bool:
    """Whether all of the run is there; it may have been stopped after its last step."""
    summary = run_dir / SUMMARY
    return summary.exists() and json.loads(summary.read_text())["steps"] >= step


def _refuse_read_only(run_dir: Path) -> None:
    """Before anything is loaded: what can not be written would be found at the first step."""
    existing = run_dir.absolute()
    while not os.path.exists(existing):  # not Path.exists: it raises where one may not look
        existing = existing.parent
    if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"run_dir={run_dir}: this user can not write into {existing}; give another by --run_dir"
        )


def _refuse_damaged(path: Path) -> None:
    """Raise ValueError where a byte of a trainer checkpoint is not what was written. torch itself
    does not look at the checksums and would go on with wrong weights."""
    # of DeepSpeed: a folder with a file of each process, and one of the model or its shares
    for file in sorted(path.rglob("*.pt")) if path.is_dir() else [path]:
        damage = _damage(file)
        if damage is not None:
            raise ValueError(
                f"{file} is damaged ({damage}); delete the folder {path.parent} to go on from the "
                "checkpoint before it, or from the start where there is none"
            )


def _damage(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip()
    # a broken directory can also ask for encryption, unknown compression or unknown characters
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        return str(error)


def check_same(folder: Path, config: Mapping[str, Any], resumable: Collection[str]) -> None:
    """Raise ValueError unless `folder` is new, or was begun with the same configuration but for the
    keys that are `resumable`."""
    kept = folder / CONFIG
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output={folder} is a file; give a folder")
    if kept.exists():
        before, now = (
            {key: value for key, value in side.items() if key not in resumable}
            for side in (yaml.safe_load(kept.read_text()), config)
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
    partial = run_dir / f"{CONFIG}.partial"  # a kill while writing must not leave half of it
    partial.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    partial.rename(run_dir / CONFIG)


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    compared = {key: value for key, value in config.items() if key not in RESUMABLE_KEYS}
    trainer = dict(compared.get("trainer", {}))
    if not str(trainer.get("strategy")).startswith("zero"):  # its checkpoints are cut
        trainer = {k: v for k, v in trainer.items() if k not in RESUMABLE_TRAINER_KEYS}
    return compared | {"trainer": trainer}


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """`key: old -> new` for every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted(before.keys() | now.keys()):
            inner = f"{key}.{name}" if key else name
            yield from differences(before.get(name), now.get(name), inner)
    elif before != now:
        yield f"{key}: {before} -> {now}"
