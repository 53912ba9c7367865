"""The training step: rollout, reward, advantages, updates; one call is one step.

Manual optimisation with the rollout inside `training_step`: a data set that rolls out would be one
update behind, because Lightning fetches a batch ahead, and automatic optimisation divides by its
own count of batches. Everything that is divided is divided in `_update`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.advantages import Advantage
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed import lockstep, strategies
from vlm_rl.metrics import drift
from vlm_rl.metrics.rollout import answer_statistics, rollout_statistics, task_statistics
from vlm_rl.metrics.statistic import Statistics, add_up, mean_of, means
from vlm_rl.model.lora import check_base
from vlm_rl.model.policy import AdaptersOff, Policy
from vlm_rl.model.weights import is_adapter
from vlm_rl.objectives import POLICY_TERM, Objective, Sequences
from vlm_rl.records import Batch, Groups, Prompt, Rollout, Rows, Statistic
from vlm_rl.rewards import Reward
from vlm_rl.rewards.kl import KLInReward
from vlm_rl.rollout import Engine, Sampling
from vlm_rl.training.clock import Stages
from vlm_rl.training.dynamic_sampling import (
    GroupFilter,
    Refill,
    Sampled,
    no_refill,
    of_all_processes,
    sample_groups,
    sequences_of_all_processes,
)
from vlm_rl.training.optimizer import build_optimizer
from vlm_rl.training.settings import (
    OptimizerSettings,
    UpdateSettings,
    ValidationSettings,
    check_groups,
)

Metrics = dict[str, float]
STATE = (
    "completed_steps",
    "skipped_updates",
    "skipped_in_a_row",
    "refill_position",
    "validation_history",
)
"""What a checkpoint holds of the module itself; the same on all processes."""
R = TypeVar("R", bound=Rows)


class RLModule(L.LightningModule):
    """Trains `policy` on groups of completions that `engine` samples and `reward` judges.

    `completed_steps` counts steps over the whole run, also across restarts; the run stops at
    `steps`. Random numbers are a function of (seed, step, process) alone. `refill` has the problems
    for further rounds of `dynamic_sampling`; `refill_position` says how far the run has used them.
    There is an alarm for a completion whose log-probabilities by engine and policy differ by more
    than `drift_alarm` nats a token.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        encoder: PromptEncoder,
        engine: Engine,
        reward: Reward,
        advantage: Advantage,
        objective: Objective,
        sampling: Sampling,
        updates: UpdateSettings,
        optimizer: OptimizerSettings,
        validation: ValidationSettings,
        group_size: int,
        steps: int,
        seed: int,
        kl_in_reward: KLInReward | None = None,
        dynamic_sampling: GroupFilter | None = None,
        refill: Refill = no_refill,
        drift_alarm: float = 0.1,
    ) -> None:
        super().__init__()
        check_groups(group_size, sampling)
        self.automatic_optimization = False
        self.policy = policy
        self.encoder = encoder
        self.engine = engine
        self.reward = reward
        self.advantage = advantage
        self.objective = objective
        self.sampling = sampling
        self.updates = updates
        self.optimizer = optimizer
        self.validation = validation
        self.group_size = group_size
        self.steps = steps
        self.seed = seed
        self.kl_in_reward = kl_in_reward
        self.dynamic_sampling = dynamic_sampling
        self.refill = refill
        self.drift_alarm = drift_alarm
        self.refill_position = 0
        self.completed_steps = 0
        self.skipped_updates: list[list[str]] = []
        self.validation_history: list[Metrics] = []
        self.stages = Stages()
        self.skipped_in_a_row = 0
        self._engine_is_current = False
        self._is_spread = False
        self._resumed_base: str | None = None
        self._base_checksum: str | None = None
        self._validation: Statistics = {}
        self.strict_loading = not policy.has_adapters  # a checkpoint has these alone
        # outside the module tree: not saved, not optimised, not wrapped by a strategy
        self.__dict__["reference"] = None
        self._smallest_prompt = lockstep.smallest_prompt(policy)

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Any]:
        before = dict(self.stages.seconds)
        sampled = self._sampled(prompts)
        statistics, sequences = sampled.statistics, []
        rollout, advantages, batch, everyone = self._batch(sampled.trained)
        if rollout.prompts:  # dynamic sampling may have found none worth training on
            statistics = add_up(statistics, rollout_statistics(rollout, advantages))
        found = drift.measure(batch)
        minibatches = lockstep.minibatches(batch, self.updates.num_minibatches)
        with self.stages("update"):  # up to here a step changes nothing: a run may stop in it
            self.refill_position = sampled.refill_position
            for minibatch in minibatches:
                found_here, updated = self._update(minibatch)
                statistics = add_up(statistics, found_here)
                sequences.append(updated)
            self._move_schedule(self.updates.num_minibatches - len(minibatches))
        self._engine_is_current = False
        self.completed_steps += 1
        self.trainer.should_stop = self.completed_steps >= self.steps
        metrics = means(statistics) | drift.metrics(found)
        metrics |= self.stages.metrics_since(before)
        metrics["rollout/engine_restarts"] = sum(ranks.gather(self.engine.restarts))
        self.log_metrics(metrics)
        return {
            "rollout": rollout,
            "everyone": everyone,
            "dropped": sampled.dropped,
            "advantages": advantages,
            "sequences": sequences,
            "metrics": metrics,
            "alarm": drift.alarm(found.worst, self.drift_alarm),
        }

    def _sampled(self, prompts: Sequence[Prompt]) -> Sampled:
        """The groups of a step; with dynamic sampling new ones in place of the useless."""

        def sample(prompts: Sequence[Prompt], number: int) -> Rollout:
            kind = f"train {number}" if number else "train"
            return self._rollout(prompts, self.group_size, self.sampling, kind)

        return sample_groups(
            prompts,
            sample,
            group_filter=self.dynamic_sampling,
            refill=self.refill,
            refill_position=self.refill_position,
        )

    def _rollout(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, kind: str
    ) -> Rollout:
        """Sample a group per prompt and judge it; every process does, also one without prompts."""
        groups = self.sample(prompts, group_size, sampling, kind)
        if not prompts:
            return Rollout.empty(group_size)
        with self.stages("reward"):
            scores = self.reward([prompt.problem for prompt in prompts], groups)
        return Rollout(prompts, groups, scores)

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, kind: str
    ) -> Groups:
        """Completions of the policy as it is now. `kind` names the random numbers: those of
        training change with the step, others are the same at every step."""
        if not self._engine_is_current:
            # not at the end of a step: an engine that fails here leaves a complete step behind it
            with self.stages("weights"):
                self.engine.update_weights(self.policy)
            self._engine_is_current = True
        with self.stages("rollout"):
            return self.engine.generate(
                prompts, group_size=group_size, sampling=sampling, seed=self._seed_of(kind)
            )

    def _batch(self, rollout: Rollout) -> tuple[Rollout, Tensor, Batch, Rollout]:
        """All that the updates read, with the rollout as its rewards are at last, its advantages
        [P, G], and the rollout of all processes: an advantage may look at every group of the step.
        They come after the log-probabilities: a KL in the reward needs both."""
        trained = rollout.scores.scored
        if not self.updates.train_on_truncated:
            trained = trained & ~rollout.truncated
        rows = Rows.build(rollout.prompts, rollout.groups, trained=trained)
        with self.stages("logprobs"):
            old, ref = self._old_and_reference(rows)
        if self.kl_in_reward is not None and ref is not None and rollout.prompts:
            rollout = self.kl_in_reward(rollout, old, ref)
        everyone = of_all_processes(rollout)
        advantages = rollout.scores.total
        if everyone.prompts:
            advantages = self.advantage(everyone)[ranks.own_places(len(rollout.prompts))]
        batch = Batch.of(rows, old_logprobs=old, ref_logprobs=ref, advantages=advantages.float())
        return rollout, advantages, batch.to(self.policy.device), everyone

    def _old_and_reference(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities [B, T] at the weights that sampled, and the reference's where a term
        needs them."""
        reference: Policy | AdaptersOff | None = self.__dict__["reference"]
        old = [torch.zeros(0, rows.completion_mask.shape[1], device=self.policy.device)]
        ref = old[:]
        with torch.no_grad():
            # cut exactly as the updates will be: in bf16 another packing rounds otherwise, and
            # GSPO's band of 3e-4 would be filled with that noise
            for part in lockstep.minibatches(rows, self.updates.num_minibatches):
                micros, fill = self._micro_batches(part)
                for micro in (*micros, *fill):
                    old.append(self._logprobs(self.policy, micro))
                    if reference is not None:
                        ref.append(self._logprobs(reference, micro))
        return lockstep.joined(old), None if reference is None else lockstep.joined(ref)

    def _micro_batches(self, rows: R) -> tuple[list[R], list[Rows]]:
        """The forwards of an update, and those without rows that keep processes in step."""
        micros = list(rows.micro_batches(self.updates.micro_batch_tokens))
        return lockstep.level(micros, self._smallest_prompt)

    def _logprobs(self, policy: Policy | AdaptersOff, micro: Rows) -> Tensor:
        return policy.logprobs(micro, temperature=self.sampling.temperature).logprobs

    def _update(self, minibatch: Batch) -> tuple[Statistics, Sequences]:
        """One optimizer update; the only place that divides by a count of the batch. Returns the
        statistics of this process and the sequences of all."""
        micros, fill = self._micro_batches(minibatch)
        plan = self.objective.prepare(minibatch, ranks.all_sum)
        norms: dict[str, Tensor] = {}
        for micro in micros or [minibatch]:
            for name, count in self.objective.normalizers(micro).items():
                norms[name] = norms.get(name, 0) + count
        norms = {name: ranks.all_sum(count) for name, count in norms.items()}
        # strategies average gradients over processes, a sum over all rows is meant
        rank_factor = self.trainer.world_size
        statistics: Statistics = {}
        sequences = []
        total = torch.zeros((), dtype=torch.float64, device=self.policy.device)
        forwards: list[Rows] = [*micros, *fill]
        for index, part in enumerate(forwards, start=1):
            last = index == len(forwards)
            with strategies.micro_batch(self.trainer.strategy, last=last):
                stats = self.policy.logprobs(
                    part, temperature=self.sampling.temperature, with_entropy=True
                )
                value = stats.logprobs.sum()  # 0, of no rows
                if isinstance(part, Batch):
                    loss = self.objective(stats, part, plan)
                    value = torch.stack(
                        [sums.sum() / norms[name].clamp(min=1) for name, sums in loss.terms.items()]
                    ).sum()
                    statistics = add_up(statistics, loss.statistics)
                    sequences.append(loss.sequences)
                self.manual_backward(value * rank_factor)
            total += value.detach()
        statistics |= self._step_optimizer(minibatch, total)
        if self.objective.stateful and "policy/loss" in statistics:
            self.objective.observe(means(statistics))
        own = Sequences.joined(sequences).weighted(1 / norms[POLICY_TERM])
        return statistics, sequences_of_all_processes(own)

    def _step_optimizer(self, minibatch: Batch, loss: Tensor) -> Statistics:
        """Clip and step; skip, count and name what is not finite."""
        optimizer: Any = self.optimizers()
        if not lockstep.anyone_has_images([minibatch]):  # what padding has put there is no gradient
            self.policy.part("vision_tower").zero_grad()
        loss = ranks.all_sum(loss)
        lr = optimizer.param_groups[0]["lr"]
        norm = strategies.step(
            self.trainer.strategy,
            optimizer,
            [*self.policy.parameters()],
            limit=self.updates.max_grad_norm,
            loss=loss,
        )
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if finite:
            self.skipped_in_a_row = 0
        else:
            uids = ranks.gather([prompt.uid for prompt in minibatch.prompts])
            self._skip(ranks.round_robin(uids))
        self._move_schedule(1)
        optimizer.zero_grad()
        one = torch.ones((), device=self.policy.device)
        statistics = {"optim/skipped_updates": Statistic(one * (not finite), one)}
        if finite:
            statistics["policy/loss"] = mean_of(loss)
            statistics["optim/grad_norm"] = mean_of(norm)
            statistics["optim/lr"] = mean_of(one * lr)
        return statistics

    def _move_schedule(self, updates: int) -> None:
        """Also past updates that a step lacks: the learning rate is a function of the step."""
        scheduler: Any = self.lr_schedulers()
        for _ in range(updates):
            scheduler.step()

    def _skip(self, uids: list[str]) -> None:
        self.skipped_updates.append(uids)
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.updates.max_skipped_updates:
            raise RuntimeError(
                f"{self.skipped_in_a_row} updates in a row had a loss or gradient that is not "
                f"finite, the last with problems {uids}; lower optimizer.lr or look at these"
            )

    @property
    def validates_now(self) -> bool:
        """Whether a validation follows the step just done."""
        step = self.completed_steps
        return step % self.validation.every_n_steps == 0 or step == self.steps

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Any]:
        samples = self.validation.samples_per_problem
        with self.stages("validation"):
            rollout = self._rollout(prompts, samples, self.sampling, f"validation {batch_idx}")
            self._tally(rollout, "val")
            if self.validation.greedy:
                greedy = Sampling(0.0, self.sampling.max_completion_tokens)
                best = self._rollout(prompts, 1, greedy, "greedy")
                self._tally(best, "val_greedy")
        return {"rollout": rollout}

    def _tally(self, rollout: Rollout, prefix: str) -> None:
        if not rollout.prompts:  # a process may have one problem less than the others
            return
        statistics = answer_statistics(rollout) | task_statistics(rollout)
        named = {f"{prefix}/{name}": value for name, value in statistics.items()}
        self._validation = add_up(self._validation, named)

    def on_validation_epoch_end(self) -> None:
        metrics = means(self._validation)
        self._validation = {}
        # a run that goes on may repeat the validation of the step where it stopped
        kept = [row for row in self.validation_history if row["step"] != self.completed_steps]
        self.validation_history = [*kept, {"step": self.completed_steps} | metrics]
        self.log_metrics(metrics)

    def _seed_of(self, kind: str) -> int:
        """Validation draws the same numbers at every step, so that its curve is comparable."""
        step = self.completed_steps if kind.startswith("train") else 0
        entropy = [self.seed, step, self.global_rank, *kind.encode()]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    def log_metrics(self, metrics: Metrics) -> None:
        """Write metrics at the number of steps done."""
        # directly: `self.log` is silent in the validation before the first step, and would count
        # optimizer updates where the steps of the run are meant
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.completed_steps)

    def setup(self, stage: str) -> None:
        if self.policy.has_adapters:  # now that the first process still has the whole of it
            own = strategies.frozen_checksum(self.policy) if ranks.rank() == 0 else ""
            self._base_checksum = ranks.gather(own)[0]

    def configure_model(self) -> None:
        if self._is_spread:
            return
        self._is_spread = True
        needs_reference = self.objective.needs_reference or self.kl_in_reward is not None
        self.__dict__["reference"] = strategies.shard(
            self.trainer.strategy, self.policy, with_reference=needs_reference
        )

    def configure_optimizers(self) -> Any:
        num_updates = self.steps * self.updates.num_minibatches
        optimizer, scheduler = build_optimizer(self.policy, self.optimizer, num_updates)
        return [optimizer], [scheduler]

    def on_fit_start(self) -> None:
        strategies.begin(self.policy, self._smallest_prompt)
        self.engine.start(self.policy, self.encoder, self.sampling)
        self._frozen_checksum = strategies.frozen_checksum(self.policy)
        check_base(self._resumed_base, self._base_checksum)

    def on_fit_end(self) -> None:
        now = strategies.frozen_checksum(self.policy)
        assert now == self._frozen_checksum, "a frozen parameter has changed"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.policy.has_adapters:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: w for n, w in weights.items() if is_adapter(n)}
        checkpoint["vlm_rl"] = {name: getattr(self, name) for name in STATE} | {
            "stage_seconds": self.stages.seconds,
            "objective": self.objective.state_dict(),
            "base": self._base_checksum,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["vlm_rl"]
        for name in STATE:
            setattr(self, name, state[name])
        self.stages.seconds.update(state["stage_seconds"])
        self.objective.load_state_dict(state["objective"])
        self._resumed_base = state["base"]
