"""The folder of a run as the page reads it: no file outside, each by the name that runs use."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vlm_rl.disk.files import Damaged, read_json
from vlm_rl.run.metrics_rows import METRICS, whole_rows

IMAGE = re.compile(r"[0-9a-f]{32}\.jpg")
ROLLOUTS = re.compile(r"step_(\d{6,9})(?:_rank_(\d{1,4}))?\.jsonl(?:\.gz)?")
_LENGTH_PLOT = re.compile(r"plots/step_\d+/length_fairness\.png")
_PAGES = ("report.md", "comparison.md")
_MARKS = ("metrics.csv", "config.yaml", "rollouts", *_PAGES)


class Stamp(NamedTuple):
    """What tells that a file has changed."""

    size: int
    mtime_ns: int


class RunFolder:
    """A folder that a run or an evaluation has written. `name` is how the page calls it."""

    def __init__(self, path: Path, name: str) -> None:
        if not any((path / mark).exists() for mark in _MARKS):
            raise ValueError(
                f"RUN={path} holds neither {METRICS} nor a report; give the run_dir of a run or "
                "the output folder of an evaluation"
            )
        self.root = path.resolve()
        self.name = name

    def file(self, *parts: str) -> Path | None:
        """Return a plain file of the folder; None if there is none, or if a link leads outside."""
        path = self.root.joinpath(*parts).resolve()
        return path if path.is_relative_to(self.root) and path.is_file() else None

    def stamp(self, *parts: str) -> Stamp | None:
        """Return the stamp of a file, None without it."""
        path = self.file(*parts)
        if path is None:
            return None
        status = path.stat()
        return Stamp(status.st_size, status.st_mtime_ns)

    def image(self, name: str) -> Path | None:
        """Return the file of an image of a prompt."""
        return self.file("images", name) if IMAGE.fullmatch(name) else None

    def metrics(self) -> list[dict[str, float]]:
        """Return the rows of metrics.csv; none if it is missing or damaged."""
        stamp, path = self.stamp(METRICS), self.file(METRICS)
        return [] if stamp is None or path is None else _metrics(path, stamp)

    def lengths(self) -> list[dict[str, Any]]:
        """Return the reports of length fairness, oldest first."""
        path = self.file("length_fairness.json")
        try:
            return [] if path is None else read_json(path, list)
        except Damaged:
            return []

    def reports(self) -> list[str]:
        """Return the names of Markdown reports, relative to the folder."""
        return [name for name in self._evaluated() if Path(name).name in _PAGES]

    def samples(self) -> list[str]:
        """Return the names of files of judged samples, relative to the folder."""
        return [name for name in self._evaluated() if Path(name).name == "samples.jsonl"]

    def picture(self, name: str) -> Path | None:
        """Return the file of a figure of a report."""
        known = _LENGTH_PLOT.fullmatch(name) or name in self._evaluated()
        return self.file(*name.split("/")) if known and name.endswith(".png") else None

    def _evaluated(self) -> list[str]:
        """Return the files of evaluations, in order of step and name."""
        patterns = [f"*{suffix}" for suffix in (".md", ".png")] + ["*/*.png", "*/samples.jsonl"]
        found = {
            path.relative_to(self.root).as_posix()
            for base in (
                self.root,
                *self.root.glob("evaluations"),
                *self.root.glob("evaluations/*"),
            )
            for pattern in patterns
            for path in base.glob(pattern)
        }
        own = {name for name in found if self.file(*name.split("/")) is not None}
        return sorted(own, key=_in_order)


def named(paths: list[Path]) -> dict[str, RunFolder]:
    """Return the folders by their names; equal ones get a number."""
    folders: dict[str, RunFolder] = {}
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"RUN={path} is not a folder; give the run_dir of a run")
        name = plain = re.sub(r"[^\w.-]+", "-", path.resolve().name).strip(".-") or "run"
        number = 1
        while name in folders:
            number += 1
            name = f"{plain}-{number}"
        folders[name] = RunFolder(path, name)
    return folders


@lru_cache(maxsize=16)
def _metrics(path: Path, stamp: Stamp) -> list[dict[str, float]]:
    """Read the file once for each of its stamps."""
    try:
        return list(whole_rows(path))
    except Damaged:
        return []


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sort step_12 behind step_6."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]
