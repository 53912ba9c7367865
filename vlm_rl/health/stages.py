"""The detector of a stage that takes more and more of a step."""

import re

from vlm_rl.health.detector import Detector, check_above, check_share, check_window
from vlm_rl.health.history import Change, History
from vlm_rl.health.lengths import LENGTH


class SlowStage(Detector):
    """Find a stage that has become slow while the others have not.

    Rule, of the medians over the first and over the last `steps` steps: the stage's share of the
    step has grown by at least `min_rise`, and its seconds by at least `factor` times, beyond what
    mean length has grown by. A machine that is slow as a whole changes no share.
    """

    advice = (
        "reward: a judge or checker that waits; rollout: engine restarts or a full cache; weights: "
        "the disk or the network; see docs/speed.md and take a trace by --profile 3"
    )

    def __init__(self, min_rise: float = 0.25, factor: float = 2.0, steps: int = 10) -> None:
        check_share(self, min_rise=min_rise)
        check_above(self, 1, factor=factor)
        check_window(self, steps)
        self.min_rise = min_rise
        self.factor = factor
        self.steps = steps

    def find(self, history: History) -> str | None:
        seconds = {
            name: change
            for name in history.names("time/")
            if re.fullmatch(r"time/\w+_s", name)
            and (change := history.medians(name, self.steps)) is not None
        }
        whole = Change(
            sum(s.before for s in seconds.values()), sum(s.after for s in seconds.values())
        )
        if not (whole.before > 0 and whole.after > 0):
            return None
        length = history.change(LENGTH, self.steps)
        longer = max(1.0, length.after / length.before) if length and length.before else 1.0
        for name, stage in seconds.items():
            rise = stage.after / whole.after - stage.before / whole.before
            if rise >= self.min_rise and stage.after >= self.factor * longer * stage.before:
                return (
                    f"{name} grew from {stage.before:.3g} to {stage.after:.3g} s, from "
                    f"{stage.before / whole.before:.0%} of a step to "
                    f"{stage.after / whole.after:.0%}"
                )
        return None
