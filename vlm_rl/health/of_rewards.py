"""Detectors of rewards that teach nothing, or something else than is meant."""

from collections.abc import Sequence
from statistics import fmean

from vlm_rl.health.detector import ACCURACY, Detector, check_above, check_share, check_window
from vlm_rl.health.history import History

SIGNALLESS = "group/without_signal_frac"
HELD_OUT = "val/accuracy"
NO_TERMS = {"mean", "group_std", "shaping", "kl"}


def terms(history: History) -> list[str]:
    """Return the names of the reward terms and factors that the run has."""
    names = [name.removeprefix("reward/") for name in history.names("reward/")]
    return [name for name in names if name not in NO_TERMS and not name.endswith("_frac")]


class GroupsWithoutSignal(Detector):
    """Find data that no longer teaches.

    Rule: over the last `steps` steps `group/without_signal_frac` is at least `min_frac` on average:
    all completions of these problems have the same reward, so that they train nothing.
    """

    advice = (
        "all right: take harder data, all wrong: easier data or a better policy to start from; "
        "raise group_size, or leave such groups out by dynamic_sampling"
    )

    def __init__(self, min_frac: float = 0.8, steps: int = 10) -> None:
        check_share(self, min_frac=min_frac)
        check_window(self, steps)
        self.min_frac = min_frac
        self.steps = steps

    def find(self, history: History) -> str | None:
        share = history.mean(SIGNALLESS, self.steps)
        if share is None or share < self.min_frac:
            return None
        right = history.mean("group/all_right_frac", self.steps) or 0
        wrong = history.mean("group/all_wrong_frac", self.steps) or 0
        return (
            f"{share:.0%} of the groups of the last {self.steps} steps had no signal ({right:.0%} "
            f"all right, {wrong:.0%} all wrong)"
        )


class HeldOutFlat(Detector):
    """Find a reward that is gamed, or data that is learned by heart.

    Rule, at a validation: `reward/mean` over the last `steps` steps is above that over the first by
    at least `min_gain` deviations of a group (`reward/group_std` of the first), a term other than
    `format_terms` has risen by 4 standard errors, and `val/accuracy` of the last two of at least 4
    validations is at most `max_gain` above the first, and below `solved`.
    """

    advice = (
        "read rollouts/ for what is rewarded now, compare the terms, and look for problems that "
        "are too easy, too few or wrong; keep the best checkpoint"
    )

    def __init__(
        self,
        min_gain: float = 0.5,
        max_gain: float = 0.01,
        solved: float = 0.95,
        format_terms: Sequence[str] = ("format",),
        steps: int = 10,
    ) -> None:
        check_above(self, 0, min_gain=min_gain, solved=solved)
        check_window(self, steps)
        self.min_gain = min_gain
        self.max_gain = max_gain
        self.solved = solved
        self.format_terms = tuple(format_terms)
        self.steps = steps

    def find(self, history: History) -> str | None:
        if not history.is_new(HELD_OUT):
            return None  # the reward may have risen since
        reward = history.change("reward/mean", self.steps)
        held_out = history.last(HELD_OUT, 2)
        if reward is None or history.count(HELD_OUT) < 4 or fmean(held_out) >= self.solved:
            return None
        spread = fmean(history.first("reward/group_std", self.steps) or [0.0])
        start = history.first(HELD_OUT, 1)[0]
        if reward.gain < max(self.min_gain * spread, 1e-6):
            return None
        if fmean(held_out) - start > self.max_gain:
            return None
        own = [name for name in terms(history) if name not in self.format_terms]
        risen = [name for name in own if history.has_risen(f"reward/{name}", self.steps)]
        if not risen:
            return None
        return (
            f"reward/mean rose from {reward.before:.3g} to {reward.after:.3g} (by "
            f"{', '.join(risen)}), but val/accuracy went from {start:.2f} to {fmean(held_out):.2f}"
        )


class FormatWithoutContent(Detector):
    """Find a policy that has learned how an answer looks and not which one is right.

    Rule: the share of well-formed answers (the mean of the first of `format_terms` that the run
    has, else 1 - `reward/unparsable_frac`) is above that of the first 3 steps by `min_rise`, has
    been above `learned` on average over the last `patience_steps`, and accuracy over the last
    `steps` is less than `min_gain` above the first and below `learned`.
    """

    advice = (
        "give format less weight than accuracy, warm up on the format, take easier data first, and "
        "check by `python -m vlm_rl.verify` that right answers are judged right"
    )

    def __init__(
        self,
        learned: float = 0.9,
        min_rise: float = 0.2,
        min_gain: float = 0.05,
        patience_steps: int = 30,
        format_terms: Sequence[str] = ("format",),
        steps: int = 10,
    ) -> None:
        check_share(self, learned=learned, min_rise=min_rise, min_gain=min_gain)
        check_window(self, steps)
        check_window(self, patience_steps)
        self.learned = learned
        self.min_rise = min_rise
        self.min_gain = min_gain
        self.patience_steps = patience_steps
        self.format_terms = tuple(format_terms)
        self.steps = steps

    def find(self, history: History) -> str | None:
        accuracy = history.change(ACCURACY, self.steps)
        start, now = self._well_formed(history)
        if accuracy is None or start is None or now is None:
            return None
        if now < self.learned or now - start < self.min_rise:
            return None
        if accuracy.gain >= self.min_gain or accuracy.after >= self.learned:
            return None
        return (
            f"well-formed answers rose from {start:.0%} to {now:.0%}, accuracy went from "
            f"{accuracy.before:.0%} to {accuracy.after:.0%}"
        )

    def _well_formed(self, history: History) -> tuple[float | None, float | None]:
        """Return the share in the first 3 steps and in the last `patience_steps`."""
        for term in self.format_terms:
            name = f"reward/{term}"
            if history.count(name) >= 3:
                return fmean(history.first(name, 3)), history.mean(name, self.patience_steps)
        name = "reward/unparsable_frac"
        now = history.mean(name, self.patience_steps)
        if now is None:
            return None, None
        return 1 - fmean(history.first(name, 3)), 1 - now


class ConstantTerm(Detector):
    """Find a reward term that says nothing.

    Rule: since the run began, `steps` steps or more, the mean of a term has been the same in every
    step, and groups had a signal by the others (`group/without_signal_frac` below
    `max_signalless_frac`).
    """

    advice = (
        "a term that gives all the same value moves no advantage: look whether it reads what it "
        "should (its columns, its pattern), or leave it out"
    )

    def __init__(self, steps: int = 20, max_signalless_frac: float = 0.8) -> None:
        check_above(self, 1, steps=steps)
        check_share(self, max_signalless_frac=max_signalless_frac)
        self.steps = steps
        self.max_signalless_frac = max_signalless_frac

    def find(self, history: History) -> str | None:
        signalless = history.mean(SIGNALLESS, min(self.steps, 10))
        if signalless is None or signalless >= self.max_signalless_frac:
            return None
        constant = [
            f"reward/{name} = {history.last(f'reward/{name}', 1)[0]:g}"
            for name in terms(history)
            if history.count(f"reward/{name}") >= self.steps
            and history.is_constant(f"reward/{name}")
        ]
        return f"{', '.join(constant)} in every step so far" if constant else None
