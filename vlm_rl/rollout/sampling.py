"""The sampler of a rollout, and the one that a checkpoint ships, which no engine uses."""

import math
from dataclasses import dataclass

from transformers import GenerationConfig

WHOLE_SOFTMAX: dict[str, float] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Neutral values: with these a sampler draws from the whole softmax, as the policy describes it."""


@dataclass(frozen=True)
class Sampling:
    """The whole sampler. Of a checkpoint's `generation_config.json` only stop tokens are heard.

    `temperature` divides the logits, both in the engine and in the policy's softmax; 0 means
    greedy, for evaluation only. The fields below `max_completion_tokens` change the distribution in
    a way that the policy's log-probabilities cannot describe, so ratios are wrong from the first
    update on. A field that is not neutral must be named in `allow_undescribed`.
    """

    temperature: float = 1.0
    max_completion_tokens: int = 1024
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    allow_undescribed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:  # also refuses NaN
            raise ValueError(
                f"sampling.temperature must be finite and >= 0, got {self.temperature}"
            )
        if self.max_completion_tokens < 1:
            raise ValueError(
                f"sampling.max_completion_tokens must be >= 1, got {self.max_completion_tokens}"
            )
        self._check_ranges()
        for name in self.allow_undescribed:
            if name not in WHOLE_SOFTMAX:
                raise ValueError(
                    f"sampling.allow_undescribed: {name!r} is none of {', '.join(WHOLE_SOFTMAX)}"
                )
        for name in self.undescribed:
            if name not in self.allow_undescribed:
                raise ValueError(
                    f"sampling.{name}={getattr(self, name)}: the policy's log-probabilities "
                    "describe the whole softmax, not what such a sampler draws from; leave it at "
                    f"{WHOLE_SOFTMAX[name]}, or name it in sampling.allow_undescribed"
                )

    def _check_ranges(self) -> None:
        ranges = {
            "top_p": ("(0, 1]", 0 < self.top_p <= 1),
            "top_k": ("[0, inf)", self.top_k >= 0),
            "min_p": ("[0, 1)", 0 <= self.min_p < 1),
            "repetition_penalty": ("(0, inf)", 0 < self.repetition_penalty < math.inf),
            "presence_penalty": ("[-2, 2]", -2 <= self.presence_penalty <= 2),
            "frequency_penalty": ("[-2, 2]", -2 <= self.frequency_penalty <= 2),
        }
        for name, (interval, is_inside) in ranges.items():
            if not is_inside:
                raise ValueError(f"sampling.{name} must be in {interval}, got {vars(self)[name]}")

    @property
    def softmax_temperature(self) -> float:
        """Temperature of the recorded log-probabilities: that of sampling, 1 for greedy."""
        return self.temperature or 1.0

    @property
    def undescribed(self) -> list[str]:
        """Fields that change the distribution from the policy's softmax to another one."""
        return [name for name, value in WHOLE_SOFTMAX.items() if getattr(self, name) != value]


def unused_sampler(path: str, sampling: Sampling) -> str | None:
    """Say how the checkpoint's `generation_config.json` differs from `sampling`, which is used.

    Returns one line, or None if there is nothing to say.
    """
    try:
        shipped = GenerationConfig.from_pretrained(path)
    except (OSError, ValueError, TypeError):  # it is missing or cannot be read
        return None
    ours = {name: getattr(sampling, name) for name in ("temperature", *WHOLE_SOFTMAX)}
    theirs = {name: getattr(shipped, name, None) for name in ours}
    different = [f"{n}={v}" for n, v in theirs.items() if v is not None and v != ours[n]]
    if not different:
        return None
    used = ", ".join(f"{name}={value:g}" for name, value in ours.items())
    return (
        f"generation_config.json of {path} is not used ({', '.join(different)}); sampling is as "
        f"the run's config says: {used}"
    )
