"""The overlapped schedule: the rollout of the next step runs while this step trains.

Let step k begin with the weights W_k and end with W_k+1. Synchronously it samples with W_k, then
trains. Here it does

    wait for rollout k -> send W_k -> begin rollout k+1 -> rewards, log-probabilities, updates of k

so that a step takes the longer of the rollout and the rest in place of their sum, and trains on
completions of W_k-1: their staleness is exactly one step. Seeds and problems of a step are those of
the synchronous run. `old_logprobs` are of W_k, the weights that the updates start from, and
`sampling_logprobs` of W_k-1, so pi_old / pi_engine of `objectives.mismatch` corrects for both the
age and the engine (decoupled PPO, arXiv:2110.00641). Without such a weight overlap is refused.

All else that is sampled, a validation, a benchmark, a further round of dynamic sampling, first
waits for the rollout that runs, then uses the weights of now. A checkpoint waits for it too and
holds its completions: the weights that sampled them are gone after the update. So nothing depends
on when a run was stopped, except that its last step begins no rollout. If the engine fails, it is
restarted with the weights of now and samples again: that step has a staleness of 0, as have the
first step and one whose rollout a checkpoint could not wait for because the engine failed.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from vlm_rl import ranks
from vlm_rl.metrics.statistic import Statistics, add_up
from vlm_rl.objectives import Objective
from vlm_rl.records import Completion, Groups, Prompt, Rollout, Statistic
from vlm_rl.rollout import Engine, EngineError, Sampling
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.training.dynamic_sampling import Sampled
from vlm_rl.training.module import RLModule
from vlm_rl.training.streams import Stream

PENDING = "pending_rollout"
"""Key of a checkpoint: the completions of the step after it, None if they are still to sample."""


@dataclass(frozen=True)
class Overlap:
    """Sample the next step's completions while this step trains.

    `staleness` is the age in steps of what is trained on. 0 samples at the start of each step, as a
    run without overlap does.
    """

    staleness: Literal[0, 1] = 1

    def check(self, engine: Engine, objective: Objective) -> None:
        """Refuse parts that cannot overlap, before a model is loaded. Raises ValueError."""
        name = type(engine).__name__
        if not engine.overlaps:
            raise ValueError(
                f"overlap.staleness={self.staleness} needs an engine with weights of its own "
                f"outside this process, which {name} has not; take vlm_rl.rollout.VLLMServer, or "
                "leave overlap out"
            )
        if self.staleness and not objective.corrects:
            raise ValueError(
                f"overlap.staleness={self.staleness} trains on completions of older weights, which "
                f"no part of {type(objective).__name__} corrects for; add "
                "vlm_rl.objectives.TokenTIS (or SequenceTIS, TokenMIS, SequenceMIS) to "
                "objective.init_args.token_weights, or leave overlap out"
            )


@dataclass(eq=False)
class _Ahead:
    """The first rollout of a step: its prompts, and the step whose weights sample.

    `began` is the time when `rollout` began, `ran_s` its seconds once it has ended, `waited_s`
    those in which somebody waited for it. `groups` are the completions from then on; those of a
    checkpoint have no `rollout`.
    """

    prompts: Sequence[Prompt]
    weights_step: int
    rollout: Future[list[list[Completion]]] | None = None
    began: float = 0.0
    ran_s: float = 0.0
    waited_s: float = 0.0
    groups: Groups | None = None

    def ended(self, _: object) -> None:
        self.ran_s = time.perf_counter() - self.began


class OverlappedModule(RLModule):
    """Trains as RLModule does, by the schedule above.

    `following` returns this rank's prompts of a step, when the step before it is being trained.
    """

    def __init__(
        self, *, overlap: Overlap, following: Callable[[int], Sequence[Prompt]], **parts: Any
    ) -> None:
        super().__init__(**parts)
        self.overlap = overlap
        self.following = following
        self._ahead: dict[int, _Ahead] = {}
        self._resumed: Mapping[str, Any] | None = None

    def _sample_groups(self, prompts: Sequence[Prompt]) -> Sampled:
        step = self.completed_steps
        # kept until the step is complete: a run that is stopped in it trains on them again
        self._ahead = {number: ahead for number, ahead in self._ahead.items() if number >= step}
        if step not in self._ahead:
            self._ahead[step] = self._take_up(prompts) or self._begin_rollout(step, prompts)
        before = self._ahead[step].waited_s
        sampled = super()._sample_groups(prompts)
        self._begin_next()
        num_groups = len(sampled.kept.prompts) + len(sampled.dropped.prompts)
        own = _statistics(self._ahead[step], step, num_groups, before)
        return replace(sampled, statistics=add_up(sampled.statistics, own))

    def _round(self, prompts: Sequence[Prompt], number: int) -> Groups:
        if number > 0:
            return super()._round(prompts, number)
        groups = self._landed(self.completed_steps)
        if self.dynamic_sampling is None:  # else a further round may need the engine
            self._begin_next()
        return groups

    def _begin_next(self) -> None:
        step = self.completed_steps + 1
        if self.overlap.staleness and step < self.steps and step not in self._ahead:
            self._ahead[step] = self._begin_rollout(step, self.following(step))

    def _begin_rollout(self, step: int, prompts: Sequence[Prompt]) -> _Ahead:
        stream = Stream.training(0)
        ahead = _Ahead(prompts, weights_step=self.completed_steps)
        ahead.rollout = self.sampler.begin(
            prompts,
            group_size=self.group_size,
            sampling=self.sampling,
            seed=stream.seed(seed=self.seed, step=step, rank=self.global_rank),
        )
        ahead.began = time.perf_counter()
        ahead.rollout.add_done_callback(ahead.ended)
        return ahead

    def _landed(self, step: int) -> Groups:
        """Wait for the rollout of `step`; if the engine fails, restart it and sample again."""
        while True:
            with self.clock("rollout"):
                try:
                    return self._wait(self._ahead[step])
                except EngineFault as fault:
                    lost = self._ahead.pop(step)
                    self.sampler.recover(fault)
            self._ahead[step] = self._begin_rollout(step, lost.prompts)

    def _wait(self, ahead: _Ahead) -> Groups:
        if ahead.groups is None:
            assert ahead.rollout is not None, "a rollout that nothing has begun"
            asked = time.perf_counter()
            ahead.groups = self.sampler.wait(
                ahead.rollout,
                ahead.prompts,
                group_size=self.group_size,
                sampling=self.sampling,
            )
            if not ahead.ran_s:  # it has ended just now
                ahead.ended(None)
            ahead.waited_s = min(time.perf_counter() - asked, ahead.ran_s)
        return ahead.groups

    def _rollout(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, stream: Stream
    ) -> Rollout:
        self._land_all()
        return super()._rollout(prompts, group_size, sampling, stream)

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, stream: Stream
    ) -> Groups:
        self._land_all()
        return super().sample(prompts, group_size, sampling, stream)

    def _land_all(self) -> None:
        for step in [*self._ahead]:
            self._landed(step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vlm_rl"][PENDING] = self._pending()

    def _pending(self) -> Mapping[str, Any] | None:
        """Return the completions of all ranks for the next step, as plain values."""
        ahead = self._ahead.get(self.completed_steps)
        if ahead is None:
            return self._resumed
        try:
            groups = self._wait(ahead)  # not as an activity: a checkpoint is not interrupted
        except EngineError as error:
            # no restart now, the run may be ending: the next step samples again, and restarts it
            del self._ahead[self.completed_steps]
            ranks.print_once(
                f"rollout engine: {error}; step {self.completed_steps + 1} is sampled again"
            )
            return None
        own = [
            {"of": _key(prompt), "completions": [dict(vars(completion)) for completion in group]}
            for prompt, group in zip(ahead.prompts, groups, strict=True)
        ]
        return {
            "weights_step": ahead.weights_step,
            "seconds": ranks.gather({"ran_s": ahead.ran_s, "waited_s": ahead.waited_s})[0],
            "groups": ranks.round_robin(ranks.gather(own)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._resumed = checkpoint["vlm_rl"][PENDING]

    def _take_up(self, prompts: Sequence[Prompt]) -> _Ahead | None:
        """Return what the checkpoint holds for `prompts`; None if a row of some rank has changed
        since."""
        saved, self._resumed = self._resumed, None
        if saved is None:
            return None
        own = saved["groups"][ranks.rank() :: ranks.world_size()]
        is_same = [group["of"] for group in own] == [_key(prompt) for prompt in prompts]
        if not all(ranks.gather(is_same)):
            return None
        groups = [[Completion(**fields) for fields in group["completions"]] for group in own]
        return _Ahead(prompts, saved["weights_step"], groups=groups, **saved["seconds"])


def _key(prompt: Prompt) -> str:
    """Return a digest of all that a completion answers."""
    digest = hashlib.blake2b(prompt.uid.encode(errors="surrogatepass"), digest_size=16)
    digest.update(prompt.token_ids.numpy().tobytes())
    for image in prompt.image_keys:
        digest.update(image)
    return digest.hexdigest()


def _statistics(ahead: _Ahead, step: int, num_groups: int, waited_s: float) -> Statistics:
    """Measure the age of a step's completions, and how much of their rollout cost no time.

    `waited_s` were waited for before the step: by a checkpoint or a validation. Groups of further
    rounds are of the weights of now. Seconds are those of rank 0.
    """
    age = (step - ahead.weights_step) * len(ahead.prompts)
    of_zero = float(ranks.is_zero())
    hidden_s = ahead.ran_s - ahead.waited_s

    def statistic(total: float, count: float) -> Statistic:
        return Statistic(torch.tensor(total), torch.tensor(count))

    return {
        "rollout/staleness_steps": statistic(age, num_groups),
        "time/rollout_hidden_frac": statistic(of_zero * hidden_s, of_zero * ahead.ran_s),
        # adds the seconds of the rollout that `time/rollout_s` of the step leaves out
        "time/sampled_tokens_per_second": statistic(0.0, of_zero * (hidden_s + waited_s)),
    }
