"""Which metrics are looked at together: the charts of training.png and of a view in W&B."""

from typing import NamedTuple

from vlm_rl.metrics.length import BY_BIN, NUM_BINS


class Panel(NamedTuple):
    """A chart: the label of each metric in it, and whether they are shares of 1."""

    title: str
    curves: dict[str, str]
    is_share: bool = False


REWARD = Panel("reward", {"reward/mean": "mean reward"})
ACCURACY = Panel(
    "accuracy",
    {
        "reward/accuracy": "training rollouts",
        "val/accuracy": "held out, sampled",
        "val_greedy/accuracy": "held out, greedy",
    },
    is_share=True,
)
LENGTH = Panel(
    "length in tokens",
    {
        "completion/length_tokens": "all",
        "completion/length_correct_tokens": "correct",
        "completion/length_wrong_tokens": "wrong",
    },
)
GROUPS = Panel(
    "groups",
    {
        "group/mixed_frac": "right and wrong answers",
        "group/all_right_frac": "all right",
        "group/all_wrong_frac": "all wrong",
        "group/without_signal_frac": "without signal",
    },
    is_share=True,
)
CLIPPING = Panel(
    "tokens clipped",
    {
        "policy/clip_frac_low": "at the lower end",
        "policy/clip_frac_high": "at the upper end",
    },
    is_share=True,
)
ENTROPY = Panel("entropy in nats a token", {"policy/entropy": "of the policy"})
GRADIENT = Panel("gradient norm", {"optim/grad_norm": "before clipping"})

SECTIONS = {
    "Reward and accuracy": (REWARD, ACCURACY),
    "Length": (
        LENGTH,
        Panel("cut off", {"completion/truncated_frac": "at the budget"}, is_share=True),
        Panel("tokens per right answer", {"completion/length_per_correct_tokens": "all tokens"}),
        Panel(
            "push of the objective on length",
            {"length/push": "its own", "length/push_sum": "sum", "length/push_mean": "mean"},
        ),
    ),
    "Groups": (GROUPS,),
    "Policy": (
        ENTROPY,
        CLIPPING,
        Panel("KL from the policy that sampled", {"policy/old_kl": "nats a token"}),
        Panel("engine and policy differ", {"drift/abs_mean": "nats a token"}),
    ),
    "Optimizer": (GRADIENT, Panel("learning rate", {"optim/lr": "learning rate"})),
    "Cost": (
        Panel("tokens sampled", {"rollout/sampled_tokens": "since the start"}),
        Panel("tokens a second", {"time/sampled_tokens_per_second": "sampled"}),
        Panel("peak memory in GB", {"time/peak_resident_gb": "resident"}),
    ),
}
"""In the order in which they are looked at."""


def names_by_bin() -> list[str]:
    """Return the metrics of single bins of length, of which charts by step say little."""
    return [f"length/{name}_bin{number}" for name in BY_BIN for number in range(1, NUM_BINS + 1)]
