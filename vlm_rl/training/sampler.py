"""Rollouts of the policy as it is now: weights to the engine, groups from it, rewards on them."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from vlm_rl.edits import RolloutEdit
from vlm_rl.model.policy import Policy
from vlm_rl.parts import PartError, named
from vlm_rl.records import Completion, Groups, Prompt, Rollout
from vlm_rl.rewards import Reward
from vlm_rl.rollout import Engine, EngineError, Sampling, contract
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.training.clock import Clock
from vlm_rl.training.policy_view import PolicyView


class Sampler:
    """Samples with `engine` and judges with `reward`; `clock` times both. `view` is for rewards
    that read the policy."""

    def __init__(
        self, policy: Policy, engine: Engine, reward: Reward, clock: Clock, view: PolicyView
    ) -> None:
        self.engine = engine
        self.reward = reward
        self._policy = policy
        self._allowed = contract.AllowedTokens.of(policy)
        self._clock = clock
        self._view = view
        self._engine_is_current = False

    def policy_changed(self) -> None:
        """Send the weights before the next rollout. Not at once, so that an engine that fails then
        leaves a complete step behind it."""
        self._engine_is_current = False

    def sample(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> Groups:
        """Return a group of completions per prompt."""
        self._send_weights()
        with self._clock("rollout"):
            return contract.sample(
                self.engine,
                self._allowed,
                prompts,
                group_size=group_size,
                sampling=sampling,
                seed=seed,
            )

    def rollout(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> Rollout:
        """Sample a group per prompt and judge it. Every rank calls this, also without prompts."""
        groups = self.sample(prompts, group_size=group_size, sampling=sampling, seed=seed)
        return self.judge(prompts, groups, group_size=group_size, temperature=sampling.temperature)

    def judge(
        self,
        prompts: Sequence[Prompt],
        groups: Groups,
        *,
        group_size: int,
        temperature: float,
        keep_view: bool = False,
    ) -> Rollout:
        """Return `groups` with their rewards. Every rank calls this, also without prompts.

        With `keep_view` the completions come with what the policy says of their tokens.
        """
        seen = groups
        if self.reward.reads_policy or keep_view:
            with self._clock("logprobs"):
                seen = self._view.seen(prompts, groups, temperature)
        if not prompts:
            return Rollout.empty(group_size)
        with self._clock("reward"):
            scores = self.reward([prompt.problem for prompt in prompts], seen)
        return Rollout(prompts, seen if keep_view else groups, scores)

    def edited(
        self,
        edit: RolloutEdit,
        rollout: Rollout,
        *,
        group_size: int,
        sampling: Sampling,
        tokenizer: Any,
    ) -> Groups:
        """Return the groups of `rollout` as `edit` makes them, not judged. Raises PartError."""
        with named(edit, "edit"):
            groups = edit(rollout, tokenizer)
        return contract.checked(
            edit,
            self._allowed,
            rollout.prompts,
            groups,
            group_size=group_size,
            sampling=sampling,
            place="edit",
            kind=PartError,
        )

    def begin(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> Future[list[list[Completion]]]:
        """Begin `sample` with the weights of now; `wait` before anything else is sampled."""
        self._send_weights()
        with named(self.engine, "engine", EngineError):
            return self.engine.begin(prompts, group_size=group_size, sampling=sampling, seed=seed)

    def wait(
        self,
        rollout: Future[list[list[Completion]]],
        prompts: Sequence[Prompt],
        *,
        group_size: int,
        sampling: Sampling,
    ) -> Groups:
        """Return what `begin` has begun. Raises EngineError, an EngineFault before `recover`."""
        with named(self.engine, "engine", EngineError):
            groups = self.engine.wait(rollout)
        return contract.checked(
            self.engine,
            self._allowed,
            prompts,
            groups,
            group_size=group_size,
            sampling=sampling,
        )

    def recover(self, fault: EngineFault) -> None:
        """Restart the engine, which then has the weights of now."""
        with named(self.engine, "engine", EngineError):
            self.engine.recover(fault)
        self._engine_is_current = True

    def _send_weights(self) -> None:
        if not self._engine_is_current:
            with self._clock("weights"), named(self.engine, "engine", EngineError):
                self.engine.update_weights(self._policy)
            self._engine_is_current = True
