"""metrics.csv: a row for every step and every validation."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from vlm_rl import ranks
from vlm_rl.disk.files import Damaged, written_whole
from vlm_rl.run.metrics_rows import METRICS, read_metrics, whole_rows
from vlm_rl.training.step import Metrics

__all__ = ["METRICS", "MetricsCsv", "read_metrics"]


class MetricsCsv(Logger):
    """Write one row per call to `metrics.csv`, with a column for every metric seen so far.

    A run that resumes keeps the first `resume_rows` rows, those that were there when its checkpoint
    was written, because it will compute all later ones again. If some of them are damaged, it says
    so and keeps what is whole of the steps up to `resume_step`. That is also all it can do without
    `resume_rows`, which an older checkpoint lacks.
    """

    def __init__(self, run_dir: Path, resume_step: int = 0, resume_rows: int | None = None) -> None:
        super().__init__()
        self.path = run_dir / METRICS
        self._columns: list[str] = ["step"]
        self.num_rows = 0
        self._rewrite(self._kept(resume_step, resume_rows) if resume_step else [])

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
        row = {name: float(value) for name, value in {"step": step or 0, **metrics}.items()}
        if not row.keys() <= set(self._columns):
            self._rewrite([*whole_rows(self.path), row])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)
        self.num_rows += 1

    def flush(self) -> None:
        """Have all rows on the disk, as a checkpoint that counts them will be."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _kept(self, step: int, number: int | None) -> list[Metrics]:
        try:
            rows = list(whole_rows(self.path))
        except Damaged as damage:
            ranks.print_once(f"{damage}; the run writes it anew from step {step} on")
            return []
        if number is None:
            return [row for row in rows if row["step"] <= step]
        if len(rows) < number or any(row["step"] > step for row in rows[:number]):
            rows = [row for row in rows if row["step"] <= step][:number]
            ranks.print_once(
                f"{self.path} is damaged (it has {len(rows)} of the {number} rows up to step "
                f"{step}); the run goes on with these"
            )
        return rows[:number]

    def _rewrite(self, rows: list[Metrics]) -> None:
        names = {name for row in rows for name in row} | set(self._columns)
        self._columns = ["step", *sorted(names - {"step"})]
        with written_whole(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self.num_rows = len(rows)
