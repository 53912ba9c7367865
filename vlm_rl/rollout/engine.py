"""What every rollout engine does, and the sampler it is asked for."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Prompt

STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""What ends a completion, in every engine; the token itself is part of the completion."""

WHOLE_SOFTMAX: dict[str, float] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""The values at which a sampler draws from the whole softmax, as the policy describes it."""


@dataclass(frozen=True)
class Sampling:
    """The whole sampler. Nothing is inherited from a checkpoint's `generation_config.json`.

    `temperature` divides the logits, in the engine and in the policy's softmax alike; 0 means
    greedy, for evaluation only. The fields below `max_completion_tokens` change the distribution in
    a way that the policy's log-probabilities can not describe, so that ratios are wrong from the
    first update on: one that is not at its neutral value must be named in `allow_undescribed`.
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
        if not 0 <= self.temperature < math.inf:  # also where it is NaN
            raise ValueError(
                f"sampling.temperature must be finite and >= 0, got {self.temperature}"
            )
        if self.max_completion_tokens < 1:
            raise ValueError(
                f"sampling.max_completion_tokens must be >= 1, got {self.max_completion_tokens}"
            )
        ranges = {
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p < 1,
            "repetition_penalty": 0 < self.repetition_penalty < math.inf,
            "presence_penalty": -2 <= self.presence_penalty <= 2,
            "frequency_penalty": -2 <= self.frequency_penalty <= 2,
        }
        for name, inside in ranges.items():
            if not inside:
                raise ValueError(f"sampling.{name}={getattr(self, name)} is out of its range")
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

    @property
    def softmax_temperature(self) -> float:
        """Temperature of the recorded log-probabilities: that of sampling, 1 for greedy."""
        return self.temperature or 1.0

    @property
    def undescribed(self) -> list[str]:
        """Fields that make this another distribution than the policy's softmax."""
        return [name for name, value in WHOLE_SOFTMAX.items() if getattr(self, name) != value]


class Engine(ABC):
    """Samples completions. Built from the config, then started with the policy it samples for."""

    restarts: int = 0
    """How often the engine had to be started again because it had failed."""

    def check(self, sampling: Sampling) -> None:
        """Refuse, before any model is loaded, what this engine can not do. Raises ValueError."""
        if sampling.undescribed:
            raise ValueError(
                f"{type(self).__name__} samples from the whole softmax, so that it has no "
                f"{', '.join(sampling.undescribed)}; leave it out, or take VLLMEngine"
            )

    def check_ranks(  # noqa: B027  (most engines can serve any number)
        self,
        *,
        world_size: int,
        num_nodes: int,
        devices_per_node: int,
        gathers_within_step: str | None,
    ) -> None:
        """Check, before any model is loaded, that this engine can serve all ranks.

        `gathers_within_step` names the training strategy if that can gather whole weights within a
        training step only; otherwise it is None. Raises ValueError.
        """

    @abstractmethod
    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        """Take up the policy's weights and the tokenizer that both sides share.

        No later request has longer completions than `sampling`.
        """

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        """Sample `group_size` completions of each prompt; [P][G], in the order of the prompts.

        Equal weights, prompts and seed give equal completions. No vision placeholder is sampled.
        Raises EngineError where the engine can not go on.
        """

    @abstractmethod
    def update_weights(self, policy: Policy) -> None:
        """Take up the weights after an update; no cache that depends on older ones survives.

        Raises EngineError where the engine can not go on, or does not compute what the policy does.
        """

    def close(self) -> None:  # noqa: B027  (most engines hold nothing)
        """Give back processes and memory; called when training ends, also by an error."""
