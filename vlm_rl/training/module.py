"""The training step: rollout, rewards, advantages, updates; one call is one step.

Manual optimisation with the rollout inside `training_step`: a data set that rolls out would be one
update behind, because Lightning fetches a batch ahead, and automatic optimisation divides by its
own count of batches. Everything that is divided is divided in `update`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.advantages import Advantage
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed import gather, strategies
from vlm_rl.distributed.lockstep import Lockstep, Minibatch
from vlm_rl.distributed.rank_strategy import RankStrategy
from vlm_rl.distributed.weights import frozen_checksum
from vlm_rl.edits import RolloutEdit
from vlm_rl.metrics import drift
from vlm_rl.metrics.rollout import answer_statistics, task_statistics
from vlm_rl.metrics.routing import RouterTally
from vlm_rl.metrics.statistic import Statistics, add_up, mean_of, means
from vlm_rl.model.lora import check_base
from vlm_rl.model.policy import Policy
from vlm_rl.model.reference import Reference
from vlm_rl.model.vision import KeptFeatures, images_of
from vlm_rl.model.weights import is_adapter
from vlm_rl.objectives import POLICY_TERM, Objective, Sequences, TokenEffects
from vlm_rl.parts import UpdateError, named
from vlm_rl.records import Batch, Groups, Prompt, Rollout, Statistic
from vlm_rl.rewards import KLInReward, Reward
from vlm_rl.rollout import Engine, EngineError, Sampling
from vlm_rl.shaping import Shaping
from vlm_rl.training import monitor
from vlm_rl.training.batching import Batching
from vlm_rl.training.clock import Clock
from vlm_rl.training.credit import Credit
from vlm_rl.training.dynamic_sampling import (
    GroupFilter,
    Refill,
    Sampled,
    no_refill,
    sample_groups,
)
from vlm_rl.training.editing import Editing
from vlm_rl.training.forwards import Forwards
from vlm_rl.training.meter import Meter
from vlm_rl.training.optimizer import build_optimizer
from vlm_rl.training.policy_view import PolicyView
from vlm_rl.training.sampler import Sampler
from vlm_rl.training.settings import (
    OptimizerSettings,
    UpdateSettings,
    ValidationSettings,
    check_groups,
)
from vlm_rl.training.step import Metrics, Step
from vlm_rl.training.step_metrics import SAMPLED_TOKENS, step_metrics
from vlm_rl.training.streams import GREEDY, Stream
from vlm_rl.training.update import Update, count_normalizers, divided, left_out

STATE = (
    "completed_steps",
    "sampled_tokens",
    "skipped_updates",
    "skipped_in_a_row",
    "refill_position",
    "validation_history",
)
"""What a checkpoint holds of the module itself; the same on all ranks."""


class RLModule(L.LightningModule):
    """Trains `policy` on groups of completions that `engine` samples and `reward` judges.

    `completed_steps` counts steps over the whole run, also across restarts; the run stops at
    `steps`. Random numbers are a function of (seed, step, rank) alone. `refill` has the problems
    for further rounds of `dynamic_sampling`; `refill_position` says how far the run has used them.
    An alarm names a completion whose log-probabilities by engine and policy differ by more than
    `drift_alarm` nats a token.
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
        shaping: Shaping | None = None,
        edit: RolloutEdit | None = None,
        dynamic_sampling: GroupFilter | None = None,
        refill: Refill = no_refill,
        drift_alarm: float = 0.1,
    ) -> None:
        super().__init__()
        check_groups(group_size, sampling)
        self.automatic_optimization = False
        self.policy = policy
        self.reference: Reference | None = None  # no module: it stands outside the module tree
        self.encoder = encoder
        self.engine = engine
        self.reward = reward
        self.advantage = advantage
        self.shaping = shaping
        self.edit = edit
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
        self.strict_loading = not policy.has_adapters  # a checkpoint has these alone
        self._begin(policy)

    def _begin(self, policy: Policy) -> None:
        """Set the state of a run before its first step."""
        self.refill_position = 0
        self.completed_steps = 0
        self.skipped_updates: list[list[str]] = []
        self.skipped_in_a_row = 0
        self.validation_history: list[Metrics] = []
        self.sampled_tokens = 0
        self.clock = Clock()
        self.meter = Meter(policy, self.clock)
        self.credit = Credit(self.advantage, self.shaping)
        view = PolicyView(policy, micro_batch_tokens=self.updates.micro_batch_tokens)
        self.sampler = Sampler(policy, self.engine, self.reward, self.clock, view)
        self.lockstep = Lockstep(
            policy,
            num_minibatches=self.updates.num_minibatches,
            micro_batch_tokens=self.updates.micro_batch_tokens,
        )
        kept = None
        if policy.has_frozen_tower:
            kept = KeptFeatures(
                policy.encode,
                images_of(self.lockstep.filler).popitem()[1],
                max_bytes=self.updates.vision_cache_mib * 2**20,
            )
        self.forwards = Forwards(policy, self.objective, self.sampling.temperature, kept)
        self.batching = Batching(
            self.lockstep,
            self.forwards,
            self.credit,
            self.clock,
            kl_in_reward=self.kl_in_reward,
            train_on_truncated=self.updates.train_on_truncated,
        )
        self._is_spread = False
        self._validation: Statistics = {}
        self._resumed_base: str | None = None
        self._base_checksum: str | None = None

    @property
    def strategy(self) -> RankStrategy:
        return strategies.of(self.trainer.strategy)

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Step]:
        """Do one step on this rank's share of its prompts."""
        self.meter.begin_step()
        sampled = self._sample_groups(prompts)
        monitored = self._monitored()
        batch = self.batching.build(
            sampled.kept, sampled.places, self.reference, self.completed_steps
        )
        with self.clock("update"):  # up to here a step changes nothing: a run may stop in it
            self.refill_position = sampled.refill_position
            self.credit.learn(batch.everyone, sampled.dropped, sampled.any_dropped, monitored)
            if self.dynamic_sampling is not None:
                self.dynamic_sampling.learn(sampled.keep_rate)
            updates = [
                self.update(minibatch, batch.has_old, has_moved=number > 0)
                for number, minibatch in enumerate(batch.minibatches)
            ]
            self._move_schedule(self.updates.num_minibatches - len(updates))
        self.sampler.policy_changed()
        rows = batch.rows if batch.has_old else batch.rows_with_old(updates[0].logprobs)
        measured = drift.measure(batch.cut.computed(rows), batch.places)
        self.completed_steps += 1
        self.trainer.should_stop = self.completed_steps >= self.steps
        metrics = step_metrics(sampled, batch, updates, engine=self.engine, meter=self.meter)
        self.sampled_tokens += int(metrics[SAMPLED_TOKENS])
        metrics[SAMPLED_TOKENS] = self.sampled_tokens
        step = Step(
            rollout=batch.rollout,
            everyone=batch.everyone,
            dropped=sampled.dropped,
            any_dropped=sampled.any_dropped,
            advantages=batch.advantages,
            rows=rows,
            sequences=[update.sequences for update in updates],
            tokens=batch.tokens_of_last(updates),
            metrics=metrics | drift.metrics(measured),
            drift_alarm=drift.alarm(measured.worst, self.drift_alarm),
        )
        self.log_metrics(step.metrics)
        return {"step": step}  # Lightning takes no other type in manual optimisation

    def _sample_groups(self, prompts: Sequence[Prompt]) -> Sampled:
        editing = Editing(self.edit, self._edited, self._judged)
        sampled = sample_groups(
            prompts,
            lambda new, number: editing(self._sample_round(new, number)),
            group_filter=self.dynamic_sampling,
            refill=self.refill,
            refill_position=self.refill_position,
        )
        return replace(sampled, statistics=sampled.statistics | editing.statistics)

    def _monitored(self) -> Rollout:
        """Sample this rank's share of the problems that the shaping wants to see."""
        step, rounds = self.completed_steps, [Rollout.empty(self.group_size)]
        shares = monitor.shares(self.credit.monitors(step), self.refill, step)
        for part, prompts in enumerate(shares):
            stream = Stream.monitor(part)
            rounds.append(self._rollout(prompts, self.group_size, self.sampling, stream))
        return Rollout.joined(rounds)

    def _sample_round(self, prompts: Sequence[Prompt], number: int) -> Rollout:
        """Sample a group per prompt in this round of a training step, and judge it."""
        return self._judged(prompts, self._round(prompts, number))

    def _round(self, prompts: Sequence[Prompt], number: int) -> Groups:
        return self.sample(prompts, self.group_size, self.sampling, Stream.training(number))

    def _judged(self, prompts: Sequence[Prompt], groups: Groups) -> Rollout:
        return self.sampler.judge(
            prompts,
            groups,
            group_size=self.group_size,
            temperature=self.sampling.temperature,
            keep_view=self.credit.reads_policy,
        )

    def _edited(self, edit: RolloutEdit, rollout: Rollout) -> Groups:
        return self.sampler.edited(
            edit,
            rollout,
            group_size=self.group_size,
            sampling=self.sampling,
            tokenizer=self.encoder.tokenizer,
        )

    def _rollout(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, stream: Stream
    ) -> Rollout:
        seed = self._seed(stream)
        return self.sampler.rollout(prompts, group_size=group_size, sampling=sampling, seed=seed)

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, stream: Stream
    ) -> Groups:
        """Return completions of the policy as it is now, without judging them."""
        seed = self._seed(stream)
        return self.sampler.sample(prompts, group_size=group_size, sampling=sampling, seed=seed)

    def _seed(self, stream: Stream) -> int:
        return stream.seed(seed=self.seed, step=self.completed_steps, rank=self.global_rank)

    def update(self, minibatch: Minibatch[Batch], has_old: bool, *, has_moved: bool) -> Update:
        """Do one optimizer update; the only place that divides by a count of the batch.

        `has_moved`: the policy is no longer the one of `old_logprobs`.
        """
        with named(self.objective, "objective", UpdateError):
            minibatch = self.forwards.in_groups(minibatch, has_moved)
            plan = self.objective.prepare(minibatch.rows, ranks.all_sum)
            normalizers = count_normalizers(self.objective, minibatch)
        total = torch.zeros((), dtype=torch.float64, device=self.policy.device)
        statistics = {"policy/left_out_frac": left_out(minibatch)}
        sequences, logprobs, routers = [], [], RouterTally()
        tokens: list[TokenEffects] = []
        for forward in minibatch.forwards:
            with self.strategy.micro_batch(last=forward is minibatch.forwards[-1]):
                stats = self.forwards.stats(forward, with_entropy=True)
                if not has_old:
                    forward = replace(forward, old_logprobs=stats.logprobs.detach())
                with named(self.objective, "objective", UpdateError):
                    loss = self.objective(stats, forward, plan)
                value = divided(loss, normalizers)
                # strategies average gradients over ranks; a sum over all rows is meant
                self.manual_backward(value * self.trainer.world_size)
            total += value.detach()
            statistics = add_up(statistics, loss.statistics)
            sequences.append(loss.sequences)
            logprobs.append(stats.logprobs.detach())
            tokens.append(loss.tokens)
            routers.add(stats.routing)
        statistics |= self._step_optimizer(minibatch, ranks.all_sum(total))
        if self.objective.observes and "policy/loss" in statistics:
            with named(self.objective, "objective", UpdateError):
                self.objective.observe(means(statistics))
        own = Sequences.joined(sequences).weighted(1 / normalizers[POLICY_TERM])
        return Update(statistics, gather.sequences(own), logprobs, tokens, routers)

    def _step_optimizer(self, minibatch: Minibatch[Batch], loss: Tensor) -> Statistics:
        """Clip and step; skip, count and name what is not finite."""
        optimizer: Any = self.optimizers()
        if not minibatch.has_images:  # what a filler has put there is not a gradient
            self.policy.part("vision_tower").zero_grad()
        lr = optimizer.param_groups[0]["lr"]
        norm = self.strategy.apply_gradients(
            optimizer,
            [*self.policy.parameters()],
            limit=self.updates.max_grad_norm,
            loss=loss,
        )
        is_finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        self._count_skipped(minibatch, is_finite)
        self._move_schedule(1)
        optimizer.zero_grad()
        one = torch.ones((), device=self.policy.device)
        statistics = {"optim/skipped_updates": Statistic(one * (not is_finite), one)}
        if is_finite:
            statistics["policy/loss"] = mean_of(loss)
            statistics["optim/grad_norm"] = mean_of(norm)
            statistics["optim/lr"] = mean_of(one * lr)
        return statistics

    def _count_skipped(self, minibatch: Minibatch[Batch], is_finite: bool) -> None:
        """Keep the uids of a skipped update; raise RuntimeError for too many in a row."""
        if is_finite:
            self.skipped_in_a_row = 0
            return
        uids = ranks.round_robin(ranks.gather([prompt.uid for prompt in minibatch.rows.prompts]))
        self.skipped_updates.append(uids)
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.updates.max_skipped_updates:
            raise RuntimeError(
                f"{self.skipped_in_a_row} updates in a row had a loss or gradient that is not "
                f"finite, the last with problems {uids}; lower optimizer.lr or look at these"
            )

    def _move_schedule(self, updates: int) -> None:
        """Move also past updates that a step lacks: the learning rate is a function of the step."""
        scheduler: Any = self.lr_schedulers()
        for _ in range(updates):
            scheduler.step()

    @property
    def validates_now(self) -> bool:
        """Whether a validation follows the step just done."""
        step = self.completed_steps
        return step % self.validation.every_n_steps == 0 or step == self.steps

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Rollout]:
        """Sample and judge held-out problems, at training's temperature and greedily."""
        samples = self.validation.samples_per_problem
        with self.clock("validation"):
            stream = Stream.validation(batch_idx)
            rollout = self._rollout(prompts, samples, self.sampling, stream)
            self._tally(rollout, "val")
            if self.validation.greedy:
                greedy = Sampling(0.0, self.sampling.max_completion_tokens)
                self._tally(self._rollout(prompts, 1, greedy, GREEDY), "val_greedy")
        return {"rollout": rollout}

    def _tally(self, rollout: Rollout, prefix: str) -> None:
        if not rollout.prompts:  # a rank may have one problem less than the others
            return
        statistics = answer_statistics(rollout) | task_statistics(rollout)
        named = {f"{prefix}/{name}": value for name, value in statistics.items()}
        self._validation = add_up(self._validation, named)

    def on_validation_epoch_end(self) -> None:
        metrics = means(self._validation)
        self._validation = {}
        # a resumed run may repeat the validation of the step where it stopped
        kept = [row for row in self.validation_history if row["step"] != self.completed_steps]
        self.validation_history = [*kept, {"step": self.completed_steps} | metrics]
        self.log_metrics(metrics)

    def log_metrics(self, metrics: Metrics) -> None:
        """Write metrics at the number of steps done."""
        # directly: `self.log` is silent in the validation before the first step, and would count
        # optimizer updates instead of the steps of the run
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.completed_steps)

    def setup(self, stage: str) -> None:
        if self.policy.has_adapters:  # now that rank 0 still has the whole of it
            own = frozen_checksum(self.policy) if ranks.rank() == 0 else ""
            self._base_checksum = ranks.gather(own)[0]

    def configure_model(self) -> None:
        if self._is_spread:
            return
        self._is_spread = True
        needs_reference = self.objective.needs_reference or self.kl_in_reward is not None
        self.reference = self.strategy.spread(self.policy, with_reference=needs_reference)

    def configure_optimizers(self) -> Any:
        num_updates = self.steps * self.updates.num_minibatches
        optimizer, scheduler = build_optimizer(self.policy, self.optimizer, num_updates)
        return [optimizer], [scheduler]

    def on_fit_start(self) -> None:
        self.strategy.begin(self.policy, self.lockstep.empty_forward())
        with named(self.engine, "engine", EngineError):
            self.engine.start(self.policy, self.encoder, self.sampling)
        self._frozen_checksum = frozen_checksum(self.policy)
        check_base(self._resumed_base, self._base_checksum)

    def on_fit_end(self) -> None:
        now = frozen_checksum(self.policy)
        assert now == self._frozen_checksum, "a frozen parameter has changed"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.policy.has_adapters:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: w for n, w in weights.items() if is_adapter(n)}
        checkpoint["vlm_rl"] = {name: getattr(self, name) for name in STATE} | {
            "stage_seconds": self.clock.seconds,
            "objective": self.objective.state_dict(),
            "credit": self.credit.state_dict(),
            "dynamic_sampling": self.dynamic_sampling and self.dynamic_sampling.state_dict(),
            "base": self._base_checksum,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["vlm_rl"]
        for name in STATE:
            setattr(self, name, state[name])
        self.clock.seconds.update(state["stage_seconds"])
        self.objective.load_state_dict(state["objective"])
        self.credit.load_state_dict(state["credit"])
        if self.dynamic_sampling is not None:
            self.dynamic_sampling.load_state_dict(state["dynamic_sampling"])
        self._resumed_base = state["base"]
