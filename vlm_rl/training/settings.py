"""Settings of the training step, checked when they are built."""

from dataclasses import dataclass
from typing import Literal

from vlm_rl.rollout import Sampling

_LEAST_COUNTS = {
    "num_minibatches": 1,
    "micro_batch_tokens": 1,
    "max_skipped_updates": 0,
    "vision_cache_mib": 0,
}


@dataclass(frozen=True)
class UpdateSettings:
    """How a rollout becomes updates.

    `num_minibatches` optimizer updates per step, each over an equal share of the prompts.
    `micro_batch_tokens` bounds prompt and completion tokens of one forward. `max_grad_norm` None
    switches clipping off. A loss or gradient that is not finite skips its update; more than
    `max_skipped_updates` in a row stop the run. Without `train_on_truncated` an answer cut off at
    the budget stays in its group's statistics but is not a sequence of the loss (the overlong
    filtering of DAPO). What a frozen vision tower made of images is kept for later steps in at most
    `vision_cache_mib` MiB of each rank's CPU memory; 0 keeps it for one step.
    """

    num_minibatches: int = 1
    micro_batch_tokens: int = 8192
    max_grad_norm: float | None = 1.0
    max_skipped_updates: int = 5
    train_on_truncated: bool = True
    vision_cache_mib: int = 512

    def __post_init__(self) -> None:
        for name, least in _LEAST_COUNTS.items():
            if getattr(self, name) < least:
                raise ValueError(f"updates.{name} must be >= {least}, got {getattr(self, name)}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(
                f"updates.max_grad_norm must be > 0, got {self.max_grad_norm}; null switches it off"
            )


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. `vision_lr` is the vision tower's own learning rate (None: the same as `lr`);
    `warmup_updates` optimizer updates of linear warm-up come before `schedule`."""

    lr: float = 1e-6
    vision_lr: float | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_updates: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "vision_lr"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"optimizer.{name} must be in [0, 1), got {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas must both be in [0, 1), got {self.betas}")
        for name in ("weight_decay", "warmup_updates"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class ValidationSettings:
    """Held-out accuracy before training, every `every_n_steps` steps and at the end.

    avg@k with k = `samples_per_problem` at training's temperature, and greedy where `greedy`.
    """

    every_n_steps: int = 10
    samples_per_problem: int = 1
    greedy: bool = True

    def __post_init__(self) -> None:
        for name in ("every_n_steps", "samples_per_problem"):
            if getattr(self, name) < 1:
                raise ValueError(f"validation.{name} must be >= 1, got {getattr(self, name)}")


def check_groups(group_size: int, sampling: Sampling) -> None:
    """Raise ValueError for groups whose completions cannot be compared."""
    if group_size < 2:
        raise ValueError(
            f"group_size must be >= 2, got {group_size}; an advantage compares completions"
        )
    if sampling.temperature == 0:
        raise ValueError(
            "sampling.temperature must be > 0 in training, got 0; greedy groups are all equal"
        )
