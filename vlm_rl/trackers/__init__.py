"""Where a run is shown beside metrics.csv: the same names everywhere, with `step` as the axis."""

from vlm_rl.trackers.tracker import Tracker
from vlm_rl.trackers.trackers import PACKAGES, TrackerName, check_trackers, open_trackers
from vlm_rl.trackers.wandb_setup import WandbMode, check_wandb, wandb_runs

__all__ = [
    "PACKAGES",
    "Tracker",
    "TrackerName",
    "WandbMode",
    "check_trackers",
    "check_wandb",
    "open_trackers",
    "wandb_runs",
]
