"""Detectors of what the updates do: entropy, clipping, gradients, and the engine's drift."""

from statistics import median

from vlm_rl.health.detector import ACCURACY, Detector, check_above, check_share, check_window
from vlm_rl.health.history import History

CLIPPED = ("policy/clip_frac_low", "policy/clip_frac_high", "policy/clip_frac_dual")


class EntropyCollapse(Detector):
    """Find a policy that no longer explores.

    Rule: the mean of `policy/entropy` over the last `steps` steps is at most `max_share` of that
    over the first, while accuracy over the last is below `solved`: a policy that has learned its
    data is sure, and that is no collapse.
    """

    advice = (
        "lower optimizer.lr, raise the upper clip or add an entropy regularizer, and go on from a "
        "checkpoint before the fall"
    )

    def __init__(self, max_share: float = 0.1, solved: float = 0.95, steps: int = 10) -> None:
        check_share(self, max_share=max_share)
        check_above(self, 0, solved=solved)
        check_window(self, steps)
        self.max_share = max_share
        self.solved = solved
        self.steps = steps

    def find(self, history: History) -> str | None:
        change = history.change("policy/entropy", self.steps)
        accuracy = history.mean(ACCURACY, self.steps)
        if change is None or change.after > self.max_share * change.before:
            return None
        if accuracy is not None and accuracy >= self.solved:
            return None
        return f"policy/entropy fell from {change.before:.3g} to {change.after:.3g} nats a token"


class GradientSpikes(Detector):
    """Find updates that are thrown about.

    Rule: in `num` of the last `window` steps `optim/grad_norm` was above `factor` times the median
    of up to 20 steps before it that had a gradient. A step with an update that was skipped as not
    finite counts too.
    """

    advice = (
        "lower optimizer.lr or updates.max_grad_norm, warm up longer by optimizer.warmup_updates, "
        "and look at the completions of these steps"
    )

    def __init__(self, factor: float = 5.0, num: int = 3, window: int = 50) -> None:
        check_above(self, 1, factor=factor)
        check_above(self, 0, num=num)
        if not 12 <= window <= 50:
            raise ValueError(f"GradientSpikes.window must be in 12 to 50, got {window}")
        self.factor = factor
        self.num = num
        self.window = window

    def find(self, history: History) -> str | None:
        norms = [norm for norm in history.last("optim/grad_norm", self.window) if norm > 0]
        spikes = []
        for index in range(10, len(norms)):
            usual = median(norms[max(0, index - 20) : index])
            if norms[index] > self.factor * usual:
                spikes.append(norms[index] / usual)
        skipped = sum(share > 0 for share in history.last("optim/skipped_updates", self.window))
        if len(spikes) + skipped < self.num:
            return None
        most = f", the largest by {max(spikes):.3g} times" if spikes else ""
        return (
            f"optim/grad_norm was above {self.factor:g} times its median in {len(spikes)} of the "
            f"last {self.window} steps{most}, and in {skipped} an update was skipped"
        )


class ClipSaturation(Detector):
    """Find updates that are mostly clipped away.

    Rule: over the last `steps` steps the shares of clipped tokens (`policy/clip_frac_low`, `_high`
    and `_dual`) have a sum of at least `min_frac` on average. The first of M minibatches clips
    nothing and a ratio leaves its band about half the time on the side that is not cut off, so that
    a band of no width shows about (M - 1) / 2M.
    """

    advice = (
        "lower optimizer.lr or updates.num_minibatches, or widen the clip: a band for sequences "
        "(GSPO, 3e-4) is far too narrow for a ratio of tokens"
    )

    def __init__(self, min_frac: float = 0.3, steps: int = 10) -> None:
        check_share(self, min_frac=min_frac)
        check_window(self, steps)
        self.min_frac = min_frac
        self.steps = steps

    def find(self, history: History) -> str | None:
        means = [history.mean(name, self.steps) for name in CLIPPED]
        share = sum(mean for mean in means if mean is not None)
        if share < self.min_frac:
            return None
        return f"{share:.0%} of the tokens of the last {self.steps} steps were clipped"


class EngineDrift(Detector):
    """Find an engine that no longer samples what the trainer describes.

    Rule: over the last `steps` steps `drift/abs_mean` is at least `max_nats` a token, or at least
    `max_growth` times its mean over the first steps and a fifth of `max_nats`.
    """

    advice = (
        "the engine has other weights, another precision or another template than the policy: "
        "compare by vlm_rl.rollout.TransformersEngine, and add objectives.mismatch until it is "
        "found"
    )

    def __init__(self, max_nats: float = 0.05, max_growth: float = 10.0, steps: int = 10) -> None:
        check_above(self, 0, max_nats=max_nats)
        check_above(self, 1, max_growth=max_growth)
        check_window(self, steps)
        self.max_nats = max_nats
        self.max_growth = max_growth
        self.steps = steps

    def find(self, history: History) -> str | None:
        now = history.mean("drift/abs_mean", self.steps)
        change = history.change("drift/abs_mean", self.steps)
        if now is None:
            return None
        has_grown = (
            change is not None
            and now >= self.max_growth * change.before
            and now >= self.max_nats / 5
        )
        if now < self.max_nats and not has_grown:
            return None
        start = f", {change.before:.2g} in the first" if change else ""
        return (
            f"engine and policy differ by {now:.2g} nats a token over the last {self.steps} "
            f"steps{start}"
        )
