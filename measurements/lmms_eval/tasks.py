"""Tasks of lmms-eval as they are installed, and copies of them that read a local data set."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from vlm_rl.errors import nearest

_NAME = re.compile(r"^(?:task|group|tag):\s*[\"']?([\w.+-]+)", re.MULTILINE)
_INCLUDE = re.compile(r"^include:\s*[\"']?([^\"'\s]+)", re.MULTILINE)
_JUDGED = re.compile(r"metric:\s*[\"']?(\w*(?:gpt|llm_as_judge)\w*)")
_ON_DISK = ("dataset_dict.json", "state.json")


def find(tasks: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the files below `tasks` that define `names`. Raises ValueError for an unknown name."""
    files: dict[str, Path] = {}
    for path in sorted(tasks.rglob("*.yaml")):
        for name in _NAME.findall(path.read_text(encoding="utf-8")):
            files.setdefault(name, path)
    for name in names:
        if name not in files:
            raise ValueError(f"lmms-eval has no task {name!r}{nearest(name, files)}")
    return {name: files[name] for name in names}


def judge_metric(path: Path) -> str | None:
    """Return a metric of the task in `path` whose name says that it needs a judge model."""
    text = path.read_text(encoding="utf-8")
    if judged := _JUDGED.search(text):
        return judged[1]
    included = [path.parent / name for name in _INCLUDE.findall(text)]
    return next((metric for file in included if (metric := judge_metric(file))), None)


def write_local(files: Mapping[str, Path], data: Mapping[str, Path], folder: Path) -> list[str]:
    """Write to `folder` a copy of each task in `data` that reads its local data set, and return the
    names to run for `files`.

    A copy has a name of its own, since lmms-eval prefers its own task if a name is given twice.
    Raises ValueError for data of a task that is not in `files` and for what is not a data set.
    """
    for name, source in data.items():
        if name not in files:
            raise ValueError(f"--data is for {name!r}, which is not among --tasks")
        if not source.is_dir():
            raise ValueError(f"no folder {source} with the data of {name}")
        saved = any((source / file).is_file() for file in _ON_DISK)
        task = {
            "include": str(files[name]),
            "task": local_name(name),
            "dataset_path": str(source.resolve()),
            "dataset_kwargs": {"load_from_disk": True} if saved else {},
        }
        (folder / f"{local_name(name)}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return [local_name(name) if name in data else name for name in files]


def local_name(name: str) -> str:
    return f"{name}_local"
