"""Trackio: `trackio/` in the run's folder, or the server or Space that its own variables name."""

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from vlm_rl.show.plain import one_line, visible_in
from vlm_rl.trackers.tracker import TableRows, Tracker


class Trackio(Tracker):
    """Tables hold their images; alerts are alerts.

    Trackio takes its folder once in a process: a second run in the same one logs beside the first.
    """

    def __init__(
        self, run_dir: Path, project: str, config: Mapping[str, Any], resume_step: int
    ) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run_dir.resolve() / "trackio"))
        import trackio  # reads the variable when it is imported

        self._trackio = trackio
        with redirect_stdout(StringIO()):  # a dozen lines that the run's own screen has no room for
            self._run = trackio.init(
                project=one_line(project),
                name=one_line(run_dir.name),
                config=visible_in({**config}),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    @property
    def name(self) -> str:
        return str(self._run.project)

    @property
    def version(self) -> str:
        return str(self._run.name)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run.log({**metrics}, step=step)

    def show_samples(self, step: int, columns: Sequence[str], rows: TableRows) -> None:
        cells = [[self._cell(cell) for cell in row] for row in rows]
        frame = pd.DataFrame(cells, columns=[*columns], dtype=object)
        self._run.log({"samples": self._trackio.Table(dataframe=frame)}, step=step)

    def show_alert(self, step: int, title: str, text: str) -> None:
        with redirect_stdout(StringIO()):
            self._run.alert(title=title, text=text, level=self._trackio.AlertLevel.WARN)

    def finalize(self, status: str) -> None:
        """Send the rest."""
        with redirect_stdout(StringIO()):
            self._run.finish()

    def _cell(self, cell: Any) -> Any:
        return self._trackio.Image(cell) if isinstance(cell, Image.Image) else visible_in(cell)
