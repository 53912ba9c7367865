"""Two prompts that engine and policy must agree about after every exchange of weights."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Problem, Prompt, Rows
from vlm_rl.rollout.engine import Sampling

WORDS = 200
"""Longer than the blocks in which vLLM caches prompts (128 tokens on a CPU): the probe is the same
every time, so that a cache that survived an update shows."""


class Probe:
    """A prompt with a picture and one without, and the policy's log-probabilities of completions.

    They fit the encoder's limit on prompts: their text is shortened where that is low.
    """

    def __init__(self, encoder: PromptEncoder, max_completion_tokens: int) -> None:
        self.sampling = Sampling(1.0, min(8, max_completion_tokens))
        self.prompts: list[Prompt] = [
            _longest(encoder, "probe with image", (_picture(),)),
            _longest(encoder, "probe without image", ()),
        ]

    def logprobs(self, policy: Policy, groups: Sequence[Sequence[Completion]]) -> Tensor:
        """The policy's log-probabilities of all tokens of `groups` [P][G], one after the other.

        In the precision of its weights: autocast is the trainer's, the engine knows nothing of it.
        """
        trained = torch.ones(len(groups), len(groups[0]), dtype=torch.bool)
        rows = Rows.build(self.prompts, groups, trained)
        with policy.evaluating(), torch.autocast(policy.device.type, enabled=False):
            stats = policy.logprobs(rows, temperature=self.sampling.temperature)
        return stats.logprobs.cpu()[rows.completion_mask]

    @staticmethod
    def sampled_logprobs(groups: Sequence[Sequence[Completion]]) -> Tensor:
        """The engine's, in the same order."""
        return torch.cat([c.sampling_logprobs for group in groups for c in group])


def _picture() -> bytes:
    """Noise: any difference in how it is resized or normalised changes every patch."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _longest(encoder: PromptEncoder, uid: str, images: tuple[bytes, ...]) -> Prompt:
    words = WORDS
    while True:
        problem = Problem(
            uid=uid, question="what is shown? " * words + "answer:", answer="-", images=images
        )
        if words == 0 or encoder.count_tokens(problem) <= encoder.max_prompt_tokens:
            return encoder.encode(problem)
        words //= 2
