"""What the files of a run say about one of its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from vlm_rl.disk.files import read_json, read_yaml
from vlm_rl.run import folder as run_folder
from vlm_rl.run.folder import Checkpoint
from vlm_rl.run.metrics_csv import METRICS, read_metrics
from vlm_rl.training.step import Metrics


@dataclass(frozen=True)
class RunRecord:
    """A checkpoint of a run, and its numbers.

    `before` and `after` are the rows of metrics.csv of the first validation and of that at the
    checkpoint's step; empty if there was none. `num_problems` goes by "train" and "held_out", as
    far as summary.json has it.
    """

    folder: Path
    checkpoint: Checkpoint
    is_best: bool
    config: Mapping[str, Any]
    before: Metrics
    after: Metrics
    num_problems: Mapping[str, int]
    skipped_rows: Mapping[str, int]

    @classmethod
    def read(cls, folder: Path, checkpoint: str) -> "RunRecord":
        """Read the run in `folder`; `checkpoint` is "best", "last" or a step.

        Raises ValueError if it is not a run, or has no such checkpoint.
        """
        if not (folder / run_folder.CONFIG).is_file():
            raise ValueError(
                f"{folder} is not a run: it has no {run_folder.CONFIG}; name a run_dir"
            )
        chosen = _choose(folder, checkpoint)
        rows = [row for row in read_metrics(folder / METRICS) if "val/accuracy" in row]
        has_summary = (folder / run_folder.SUMMARY).is_file()
        summary = read_json(folder / run_folder.SUMMARY, dict) if has_summary else {}
        best = run_folder.best_checkpoint(folder)
        return cls(
            folder,
            chosen,
            is_best=best is not None and best.step == chosen.step,
            config=read_yaml(folder / run_folder.CONFIG),
            before=next((row for row in rows if row["step"] < chosen.step), {}),
            after=next((row for row in rows if row["step"] == chosen.step), {}),
            num_problems=summary.get("num_problems", {}),
            skipped_rows=summary.get("skipped_rows", {}),
        )

    @property
    def weights(self) -> Path:
        """The folder that `from_pretrained` loads."""
        return self.checkpoint.folder / "hf"

    @property
    def base(self) -> str:
        path: str = self.config["policy"]["path"]
        return path

    @property
    def datasets(self) -> list[str]:
        """The hub ids among the training data."""
        paths = [entry["path"] for entry in self.config["data"]["train"]]
        return list(dict.fromkeys(path for path in paths if is_hub_id(path)))


def is_hub_id(name: str) -> bool:
    """Whether `name` is OWNER/NAME on a hub and not a file or folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def _choose(folder: Path, checkpoint: str) -> Checkpoint:
    there = run_folder.checkpoints(folder)
    if not there:
        raise ValueError(f"{folder} has no complete checkpoint; let the run reach its first one")
    if checkpoint == "last":
        return there[-1]
    if checkpoint == "best":
        # a run without validation has no best one
        return run_folder.best_checkpoint(folder) or there[-1]
    chosen = next((one for one in there if str(one.step) == checkpoint), None)
    if chosen is None:
        steps = ", ".join(str(one.step) for one in there)
        raise ValueError(f"--checkpoint {checkpoint}: must be best, last or one of {steps}")
    return chosen
