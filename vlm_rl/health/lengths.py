"""Detectors of response length."""

from vlm_rl.health.detector import (
    Detector,
    accuracy_change,
    check_above,
    check_share,
    check_window,
)
from vlm_rl.health.history import History

LENGTH = "completion/length_tokens"
TRUNCATED = "completion/truncated_frac"


class LengthRunaway(Detector):
    """Find completions that grow and are not better for it.

    Rule: mean length over the last `steps` steps is at least `factor` times that over the first,
    accuracy has not risen by `min_gain`, and less than `max_truncated_frac` is cut off; above that
    it is a truncation wave. Without a term that gives verdicts the mean reward stands for accuracy.
    """

    advice = (
        "look at `length/push` and the longest completions in rollouts/; shape length (reward."
        "length) or take an objective that does not favour it, see docs/response_length.md"
    )

    def __init__(
        self,
        factor: float = 2.0,
        min_gain: float = 0.05,
        max_truncated_frac: float = 0.25,
        steps: int = 10,
    ) -> None:
        check_above(self, 1, factor=factor)
        check_above(self, 0, min_gain=min_gain)
        check_share(self, max_truncated_frac=max_truncated_frac)
        check_window(self, steps)
        self.factor = factor
        self.min_gain = min_gain
        self.max_truncated_frac = max_truncated_frac
        self.steps = steps

    def find(self, history: History) -> str | None:
        length, accuracy = history.change(LENGTH, self.steps), accuracy_change(history, self.steps)
        if length is None or length.after < self.factor * length.before:
            return None
        if accuracy is not None and accuracy.gain >= self.min_gain:
            return None
        if (history.mean(TRUNCATED, self.steps) or 0) >= self.max_truncated_frac:
            return None
        return f"mean length grew from {length.before:.0f} to {length.after:.0f} tokens and " + (
            f"accuracy went from {accuracy.before:.2f} to {accuracy.after:.2f}"
            if accuracy
            else "nothing says that it was of use"
        )


class LengthCollapse(Detector):
    """Find completions that shrink and are worse for it.

    Rule: mean length over the last `steps` steps is at most `max_share` of that over the first, and
    accuracy has fallen by `min_loss`. Shorter answers that are as good are what a length reward
    asks for. Without a term that gives verdicts the mean reward stands for accuracy.
    """

    advice = (
        "weaken the reward for being short, or pay it to correct completions only, and go on from "
        "a checkpoint before the fall"
    )

    def __init__(self, max_share: float = 0.5, min_loss: float = 0.05, steps: int = 10) -> None:
        check_share(self, max_share=max_share)
        check_above(self, 0, min_loss=min_loss)
        check_window(self, steps)
        self.max_share = max_share
        self.min_loss = min_loss
        self.steps = steps

    def find(self, history: History) -> str | None:
        length, accuracy = history.change(LENGTH, self.steps), accuracy_change(history, self.steps)
        if length is None or length.after > self.max_share * length.before:
            return None
        if accuracy is None or accuracy.gain > -self.min_loss:
            return None
        return (
            f"mean length fell from {length.before:.0f} to {length.after:.0f} tokens and accuracy "
            f"from {accuracy.before:.2f} to {accuracy.after:.2f}"
        )


class TruncationWave(Detector):
    """Find a budget of tokens that cuts off many completions, and no fewer as training goes on.

    Rule: over the last `steps` steps `completion/truncated_frac` is at least `min_frac` on average,
    and at least 0.8 of what it was over as many steps before.
    """

    advice = (
        "raise sampling.max_completion_tokens, shape length (reward.length), or leave these out "
        "of the loss by --updates.train_on_truncated false"
    )

    def __init__(self, min_frac: float = 0.25, steps: int = 10) -> None:
        check_share(self, min_frac=min_frac)
        check_window(self, 2 * steps)
        self.min_frac = min_frac
        self.steps = steps

    def find(self, history: History) -> str | None:
        now, both = history.mean(TRUNCATED, self.steps), history.mean(TRUNCATED, 2 * self.steps)
        if now is None or both is None or now < self.min_frac:
            return None
        before = 2 * both - now
        if now < 0.8 * before:
            return None
        return f"{now:.0%} of the completions of the last {self.steps} steps were cut off"
