"""What goes wrong in a run, found in its metrics; one rule per detector.

A new detector subclasses `Detector` and stands in `DETECTORS` of monitor.py, with a section of
docs/health.md. May import: errors, parts, show; its command also reads metrics.csv as `run` does.
"""

from vlm_rl.health.detector import Detector
from vlm_rl.health.history import Change, History
from vlm_rl.health.lengths import LengthCollapse, LengthRunaway, TruncationWave
from vlm_rl.health.monitor import DETECTORS, Health, Illness
from vlm_rl.health.of_rewards import (
    ConstantTerm,
    FormatWithoutContent,
    GroupsWithoutSignal,
    HeldOutFlat,
)
from vlm_rl.health.stages import SlowStage
from vlm_rl.health.updates import ClipSaturation, EngineDrift, EntropyCollapse, GradientSpikes

__all__ = [
    "DETECTORS",
    "Change",
    "ClipSaturation",
    "ConstantTerm",
    "Detector",
    "EngineDrift",
    "EntropyCollapse",
    "FormatWithoutContent",
    "GradientSpikes",
    "GroupsWithoutSignal",
    "Health",
    "HeldOutFlat",
    "History",
    "Illness",
    "LengthCollapse",
    "LengthRunaway",
    "SlowStage",
    "TruncationWave",
]
