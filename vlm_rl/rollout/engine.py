"""What every rollout engine does."""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.processes.background import begun
from vlm_rl.records import END_OF_THINKING, Completion, FinishReason, Prompt
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.rollout.sampling import Sampling


class Engine(ABC):
    """Samples completions. Built from the config, then started with the policy it samples from."""

    overlaps: ClassVar[bool] = False
    """Whether it can sample while the policy trains: it has weights of its own, elsewhere."""

    restarts: int = 0
    """How often the engine was restarted because it failed."""

    returns_experts: ClassVar[bool] = False
    """Whether completions have the `experts` of a mixture."""

    is_elsewhere: bool = False
    """Whether it computes on devices of its own, not on those that train."""

    def check(self, sampling: Sampling) -> None:
        """Refuse, before any model is loaded, what this engine cannot do. Raises ValueError."""
        if sampling.undescribed:
            raise ValueError(
                f"sampling.{sampling.undescribed[0]}: {type(self).__name__} samples from the whole "
                f"softmax only, without {', '.join(sampling.undescribed)}; leave it out, or take "
                "VLLMEngine"
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

    def check_model(self, config: Any) -> None:  # noqa: B027  (most engines compute any family)
        """Check, before any model is loaded, that this engine can sample from one of this
        transformers configuration. Raises ValueError."""

    @abstractmethod
    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        """Load the policy's weights, and the tokenizer that both sides share.

        No later request has longer completions than `sampling`.
        """

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        """Sample `group_size` completions of each prompt; [P][G], in the order of the prompts.

        Equal weights, prompts and seed give equal completions. No vision placeholder is sampled.
        Make them by `decoded`, so that their text begins with what the prompt has opened.
        Raises EngineError if the engine cannot continue.
        """

    @abstractmethod
    def update_weights(self, policy: Policy) -> None:
        """Load the weights after an update and drop every cache that depends on older ones.

        Raises EngineError if the engine cannot continue, or does not compute what the policy does.
        """

    def begin(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> Future[list[list[Completion]]]:
        """Begin `generate` in a thread, with the weights that the engine has now.

        Only for an engine that `overlaps`. What runs in the thread reads no policy and calls no
        collective. Until `wait` has returned or raised, no other method but `close` is called.
        """
        how: dict[str, Any] = {"group_size": group_size, "sampling": sampling, "seed": seed}
        return begun(lambda: self.generate(prompts, **how))

    def wait(self, rollout: Future[list[list[Completion]]]) -> list[list[Completion]]:
        """Return what `begin` has begun; a second call gives the same again.

        Raises EngineError, an EngineFault if `recover` may help.
        """
        return rollout.result()

    def recover(self, fault: EngineFault) -> None:
        """Restart after a fault that `wait` has raised, and load the policy's weights of now.

        Raises EngineError if the engine cannot continue; one that cannot restart raises `fault`.
        """
        raise fault

    def close(self) -> None:  # noqa: B027  (most engines hold nothing)
        """Free processes and memory; called when training ends, also after an error."""


def decoded(
    prompt: Prompt,
    tokenizer: Any,
    *,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    finish_reason: FinishReason,
    experts: Tensor | None = None,
) -> Completion:
    """Return the completion of `prompt` that these sampled tokens are."""
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    return Completion(
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        sampling_logprobs=torch.tensor(logprobs, dtype=torch.float32),
        finish_reason=finish_reason,
        text=prompt.opening + text,
        experts=experts,
        thinking_tokens=thinking_tokens(token_ids, text, tokenizer),
    )


def thinking_tokens(token_ids: Sequence[int], text: str, tokenizer: Any) -> int | None:
    """Return the number of tokens up to and with the first `</think>` of their `text`.

    That is the shortest prefix whose text has the whole tag, found by bisection: tokenizers write
    the tag with one token or with several, and the last of these may hold what follows it. None if
    the text has no such tag.
    """
    if END_OF_THINKING not in text:
        return None
    return bisect_left(
        range(len(token_ids)),
        True,
        key=lambda n: END_OF_THINKING in tokenizer.decode(token_ids[:n], skip_special_tokens=True),
    )


def shortened(prompt: Prompt, completion: Completion, length: int, tokenizer: Any) -> Completion:
    """Return the first `length` tokens of a completion, as if the budget had ended it there."""
    experts, logprobs, entropies = completion.experts, completion.logprobs, completion.entropies
    cut = decoded(
        prompt,
        tokenizer,
        token_ids=completion.token_ids[:length].tolist(),
        logprobs=completion.sampling_logprobs[:length].tolist(),
        finish_reason="length",
        # no engine computes the last token
        experts=None if experts is None else experts[: len(prompt) + length - 1],
    )
    return replace(
        cut,
        logprobs=None if logprobs is None else logprobs[:length],
        entropies=None if entropies is None else entropies[:length],
    )
