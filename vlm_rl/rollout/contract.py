"""Check completions where they enter: every engine is used through `sample`, every edit through
`checked`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vlm_rl.model.policy import Policy
from vlm_rl.parts import PartError, named, path_of
from vlm_rl.records import Completion, Groups, Prompt
from vlm_rl.rollout.engine import Engine
from vlm_rl.rollout.faults import EngineError
from vlm_rl.rollout.sampling import Sampling

ROUNDING = 1e-3
"""Nats by which a log-probability may be above 0."""


class AllowedTokens(NamedTuple):
    """Tokens that may be sampled: those below `size` that are not `banned`."""

    size: int
    banned: frozenset[int]

    @classmethod
    def of(cls, policy: Policy) -> "AllowedTokens":
        return cls(policy.vocab_size, frozenset(policy.banned_ids.tolist()))


def sample(
    engine: Engine,
    allowed: AllowedTokens,
    prompts: Sequence[Prompt],
    *,
    group_size: int,
    sampling: Sampling,
    seed: int,
) -> Groups:
    """Return what `engine` generates, checked. Raises EngineError for all that goes wrong in it."""
    with named(engine, "engine", EngineError):
        groups = engine.generate(prompts, group_size=group_size, sampling=sampling, seed=seed)
    return checked(engine, allowed, prompts, groups, group_size=group_size, sampling=sampling)


def checked(
    part: object,
    allowed: AllowedTokens,
    prompts: Sequence[Prompt],
    groups: Groups,
    *,
    group_size: int,
    sampling: Sampling,
    place: str = "engine",
    kind: type[PartError] = EngineError,
) -> Groups:
    """Return `groups` if they are what `part`, in this place of the configuration, must return for
    `prompts`. Raises `kind`."""
    who = f"{place} {path_of(part)}"
    _check_count(groups, len(prompts), f"{who} must return a list of groups, one per prompt", kind)
    for prompt, group in zip(prompts, groups, strict=True):
        rule = f"{who} must return {group_size} completions of problem {prompt.uid!r}"
        _check_count(group, group_size, rule, kind)
        for number, completion in enumerate(group):
            fault = _fault(completion, sampling.max_completion_tokens, allowed)
            if fault is not None:
                raise kind(f"{who}: completion {number} of problem {prompt.uid!r} {fault}")
    return groups


def _check_count(given: object, wanted: int, rule: str, kind: type[PartError]) -> None:
    if not isinstance(given, Sequence):
        raise kind(f"{rule}, got {type(given).__name__}")
    if len(given) != wanted:
        raise kind(f"{rule}, got {len(given)} for {wanted}")


def _fault(completion: object, limit: int, allowed: AllowedTokens) -> str | None:
    """Say what is wrong with a completion, None if nothing is."""
    if not isinstance(completion, Completion):
        return f"is no Completion but {type(completion).__name__}"
    if completion.finish_reason not in ("stop", "length"):
        return f"has finish_reason {completion.finish_reason!r}, which must be stop or length"
    if len(completion) > limit:
        return f"has {len(completion)} tokens, above sampling.max_completion_tokens={limit}"
    for token in completion.token_ids.tolist():
        if not 0 <= token < allowed.size:
            return f"has token {token}, outside the vocabulary of {allowed.size}"
        if token in allowed.banned:
            return f"has token {token}, a vision placeholder, which must never be sampled"
    for logprob in completion.sampling_logprobs.tolist():
        if not (math.isfinite(logprob) and logprob <= ROUNDING):
            return f"has log-probability {logprob}, which must be finite and at most 0"
    text: object = completion.text
    if not isinstance(text, str):
        return f"has a text of type {type(text).__name__}"
    return None
