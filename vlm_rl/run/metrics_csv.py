"""metrics.csv: a row for every step and every validation."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from vlm_rl.training.step import Metrics

METRICS = "metrics.csv"


class MetricsCsv(Logger):
    """Write one row per call to `metrics.csv`, with a column for every metric seen so far.

    A run that resumes from step `resume_step` first drops the rows of later steps, because it will
    compute these steps again.
    """

    def __init__(self, run_dir: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = run_dir / METRICS
        self._columns: list[str] = ["step"]
        rows = _whole_rows(self.path) if self.path.exists() else []
        kept = [row for row in rows if row["step"] <= resume_step] if resume_step else []
        self._rewrite(kept)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": float(step or 0), **metrics}
        if row.keys() <= set(self._columns):
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._rewrite([*read_metrics(self.path), row])

    def _rewrite(self, rows: list[Metrics]) -> None:
        names = {name for row in rows for name in row} | set(self._columns)
        self._columns = ["step", *sorted(names - {"step"})]
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.rename(self.path)


def _whole_rows(path: Path) -> list[Metrics]:
    """Read the rows without a last line that a kill or a full disk has cut short: its last number
    could lack digits."""
    whole, newline, _ = path.read_text().rpartition("\n")
    return _parsed(io.StringIO(whole + newline, newline=""))


def read_metrics(path: Path) -> list[Metrics]:
    """Return the rows of a metrics.csv without their empty cells."""
    with path.open(newline="") as file:
        return _parsed(file)


def _parsed(file: TextIO) -> list[Metrics]:
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
