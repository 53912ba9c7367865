"""SwanLab: `swanlab/` in the run's folder, or online where SWANLAB_MODE says so."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_rl.disk.files import read_text, write_text
from vlm_rl.show.plain import one_line, visible_in
from vlm_rl.trackers.tracker import TableRows, Tracker, images, text_table

RUN_ID = "swanlab_run_id"
"""File in the run's folder: the run of SwanLab to which every start in it belongs."""


class SwanLab(Tracker):
    """Tables and alerts are texts; images stand beside their table.

    Online every start belongs to one run. Offline each has its own folder, with the same id, which
    `swanlab sync` sends.
    """

    def __init__(
        self, run_dir: Path, project: str, config: Mapping[str, Any], resume_step: int
    ) -> None:
        import swanlab

        self._swanlab = swanlab
        folder, file = run_dir / "swanlab", run_dir / RUN_ID
        folder.mkdir(exist_ok=True)
        mode = os.environ.get("SWANLAB_MODE", "offline")
        known = read_text(file).strip() if file.exists() else None
        online = {"id": known, "resume": "allow"} if mode == "online" and known else {}
        self._run = swanlab.init(
            mode=mode,
            log_dir=str(folder),
            project=one_line(project),
            name=one_line(run_dir.name),
            config=visible_in({**config}),
            reinit=True,
            **online,
        )
        write_text(file, str(self._run.id))

    @property
    def name(self) -> str:
        return str(self._run.name)

    @property
    def version(self) -> str:
        return str(self._run.id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run.log({**metrics}, step=step)

    def show_samples(self, step: int, columns: Sequence[str], rows: TableRows) -> None:
        shown = [
            self._swanlab.Image(image, caption=f"row {number}") for number, image in images(rows)
        ]
        text = self._swanlab.Text(text_table(columns, rows))
        self._run.log({"samples/table": text, **({"samples/images": shown} if shown else {})}, step)

    def show_alert(self, step: int, title: str, text: str) -> None:
        self._run.log({f"health/{title}": self._swanlab.Text(text)}, step)

    def finalize(self, status: str) -> None:
        """Close the run's file."""
        self._run.finish()
