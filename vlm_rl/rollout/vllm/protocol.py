"""Requests to vLLM, and the checks of every answer; the same in process and over HTTP."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout.engine import decoded
from vlm_rl.rollout.faults import EngineFault, EngineMismatch
from vlm_rl.rollout.sampling import WHOLE_SOFTMAX, Sampling

BAN = -100.0
"""The lowest logit bias that vLLM accepts. Answers are still checked for banned tokens."""


@dataclass(frozen=True)
class Request:
    """One prompt and every sampling parameter of vLLM that decides what is drawn."""

    prompt: Prompt
    parameters: dict[str, Any]


@dataclass(frozen=True)
class RawCompletion:
    """One completion as vLLM returned it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str | None


@dataclass(frozen=True)
class Answer:
    """What vLLM returned for one request: the prompt as it saw it, and the completions.

    `origin` says in messages who returned it.
    """

    prompt_ids: Sequence[int]
    completions: Sequence[RawCompletion]
    origin: str = "vLLM"


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of both sides, the ids that end a completion, those never sampled, and the
    number of ids that the policy has."""

    tokenizer: Any
    stop_ids: frozenset[int]
    banned_ids: frozenset[int]
    size: int

    def requests(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[Request]:
        """Build a request per prompt. Seeds are far apart: vLLM counts up within a group."""
        fixed = {
            "n": 1 if sampling.temperature == 0 else group_size,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_completion_tokens,
            **{name: getattr(sampling, name) for name in WHOLE_SOFTMAX},
            "logit_bias": {str(token): BAN for token in sorted(self.banned_ids)},
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": True,  # only the tokens named above end a completion
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
        }
        seeds = np.random.SeedSequence([seed]).generate_state(len(prompts), np.uint64) >> 2
        return [
            Request(prompt, fixed | {"seed": int(number)})
            for prompt, number in zip(prompts, seeds, strict=True)
        ]

    def group(self, request: Request, answer: Answer, group_size: int) -> list[Completion]:
        """Check an answer and return its completions.

        Raises EngineMismatch if the engine saw another prompt, EngineFault if the answer is broken
        or incomplete.
        """
        _compare_prompts(request.prompt, answer)
        wanted: int = request.parameters["n"]
        fault = f"{len(answer.completions)} of {wanted} completions came back"
        if len(answer.completions) == wanted:
            faults = (
                self._fault(raw, request.parameters["max_tokens"]) for raw in answer.completions
            )
            fault = next(filter(None, faults), "")
        if fault:
            raise EngineFault(f"{answer.origin}: problem {request.prompt.uid}: {fault}")
        group = [self._completion(request, raw) for raw in answer.completions]
        return group * (group_size // wanted)

    def _fault(self, raw: RawCompletion, limit: int) -> str | None:
        """Say what is wrong with a completion, None if nothing is."""
        ids = raw.token_ids
        if raw.finish_reason not in ("stop", "length"):
            return f"unknown finish reason {raw.finish_reason!r:.100}"
        if not ids:
            return "an empty completion"
        if outside := [token for token in ids if not 0 <= token < self.size]:
            return f"token {outside[0]} is outside the vocabulary of {self.size}"
        if raw.finish_reason == "length" and len(ids) != limit:
            return f"a completion was cut after {len(ids)} of {limit} tokens"
        if raw.finish_reason == "stop" and ids[-1] not in self.stop_ids:
            return f"a completion stopped without a stop token, at {ids[-1]}"
        if len(raw.logprobs) != len(ids) or not all(map(math.isfinite, raw.logprobs)):
            return "log-probabilities are missing or not finite"
        if not self.banned_ids.isdisjoint(ids):
            return "a vision placeholder was sampled"
        return None

    def _completion(self, request: Request, raw: RawCompletion) -> Completion:
        return decoded(
            request.prompt,
            self.tokenizer,
            token_ids=raw.token_ids,
            logprobs=raw.logprobs,
            finish_reason="stop" if raw.finish_reason == "stop" else "length",
        )


def _compare_prompts(prompt: Prompt, answer: Answer) -> None:
    ours, seen = prompt.token_ids.tolist(), answer.prompt_ids
    if ours == list(seen):
        return
    pairs = zip(ours, seen, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(seen)))
    sizes = ", ".join(f"{image.width}x{image.height}" for image in prompt.images) or "none"
    raise EngineMismatch(
        f"{answer.origin}: problem {prompt.uid}: the engine's prompt has {len(seen)} tokens, the "
        f"trainer's {len(ours)}, different from token {first} on (images as the trainer resized "
        f"them: {sizes}); the engine must use the trainer's min_pixels, max_pixels and chat tokens"
    )
