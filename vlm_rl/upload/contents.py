"""The folder that goes to the hub: a checkpoint, its card and what of the run belongs beside it.

Rollouts hold the questions and answers of the data, and the first problems hold its images. Both
stay here unless they are asked for.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vlm_rl.disk.files import read_json, write_text
from vlm_rl.run.first_problems import FOLDER as FIRST_PROBLEMS
from vlm_rl.run.folder import CONFIG
from vlm_rl.run.metrics_csv import METRICS
from vlm_rl.upload.run_record import RunRecord

STAGE = "upload"
"""In the run's folder: what the last upload or dry run has made."""

BESIDE = "training"
"""On the hub: the files of the run beside those of the checkpoint."""

REPLACED = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", f"{BESIDE}/*")
"""What an upload deletes on the hub if it does not send it anew: shards of another size would be
loaded with these, and rollouts would stay that are no longer asked for."""

_ADAPTER = "adapter_config.json"
_BASE = "base_model_name_or_path"


def stage(record: RunRecord, base_model: str | None, *, rollouts: bool, images: bool) -> Path:
    """Make the folder anew, with links to the files instead of copies, and return it.

    Raises ValueError if the checkpoint is an adapter whose base no other machine has.
    """
    target = record.folder / STAGE
    adapter = _adapter_config(record, base_model)
    if target.is_symlink():
        raise ValueError(f"{target} is a link; move it away, what it points to would be replaced")
    shutil.rmtree(target, ignore_errors=True)
    for file, name in _contents(record, rollouts=rollouts, images=images):
        link = target / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(file.resolve(), link.parent.resolve()))
    if adapter is not None:
        (target / _ADAPTER).unlink()
        write_text(target / _ADAPTER, adapter)
    return target


def names(folder: Path) -> list[str]:
    """Return the names of the files in a staged folder, as they will be on the hub."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _contents(record: RunRecord, *, rollouts: bool, images: bool) -> Iterator[tuple[Path, str]]:
    """Yield each file and its name on the hub."""
    run = record.folder
    wanted = [(run, name) for name in (CONFIG, METRICS, "plots/training.png")]
    wanted += [(run, f"plots/step_{record.checkpoint.step}/length_fairness.png")]
    for name, asked in (("rollouts", rollouts), (FIRST_PROBLEMS, images)):
        wanted += [(run, f"{name}/{path.name}") for path in (run / name).glob("*") if asked]
    for file in sorted(record.weights.rglob("*")):
        if file.is_file():
            yield file, file.relative_to(record.weights).as_posix()
    for folder, name in wanted:
        if (folder / name).is_file():
            yield folder / name, f"{BESIDE}/{name}"


def _adapter_config(record: RunRecord, base_model: str | None) -> str | None:
    """Return the configuration of an adapter with a base that others can load, None for a whole
    checkpoint."""
    file = record.weights / _ADAPTER
    if not file.is_file():
        return None
    if base_model is None:
        raise ValueError(
            f"{record.weights} is an adapter of {record.base}, which is on no hub; give "
            "--base_model OWNER/NAME, or train with --checkpoint.merge_adapter true"
        )
    return json.dumps(read_json(file, dict) | {_BASE: base_model}, indent=2) + "\n"
