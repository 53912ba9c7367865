"""What every rollout engine does, and the sampler it is asked for."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_rl.policy import Policy
from vlm_rl.prompts import PromptEncoder
from vlm_rl.records import Completion, Prompt


@dataclass(frozen=True)
class Sampling:
    """The whole sampler. Nothing is inherited from a checkpoint's `generation_config.json`.

    `temperature` divides the logits, in the engine and in the policy's softmax alike; 0 means
    greedy, for evaluation only. There is no top-p, top-k or penalty: the policy's log-probabilities
    could not describe what such a sampler does.
    """

    temperature: float = 1.0
    max_completion_tokens: int = 1024

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:  # also where it is NaN
            raise ValueError(
                f"sampling.temperature must be finite and >= 0, got {self.temperature}"
            )
        if self.max_completion_tokens < 1:
            raise ValueError(
                f"sampling.max_completion_tokens must be >= 1, got {self.max_completion_tokens}"
            )

    @property
    def softmax_temperature(self) -> float:
        """Temperature of the recorded log-probabilities: that of sampling, 1 for greedy."""
        return self.temperature or 1.0


class Engine(ABC):
    """Samples completions. Built from the config, then started with the policy it samples for."""

    @abstractmethod
    def start(self, policy: Policy, encoder: PromptEncoder) -> None:
        """Take up the policy's weights and the tokenizer that both sides share."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        """Sample `group_size` completions of each prompt; [P][G], in the order of the prompts.

        Equal weights, prompts and seed give equal completions. No vision placeholder is sampled.
        """

    @abstractmethod
    def update_weights(self, policy: Policy) -> None:
        """Take up the weights after an update; no cache that depends on older ones survives."""
