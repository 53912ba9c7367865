"""The training step: rollout, reward, advantages, updates; one call is one step.

Manual optimisation with the rollout inside `training_step`: a data set that rolls out would be one
update behind, because Lightning fetches a batch ahead, and automatic optimisation divides by its
own count of batches. Everything that is divided is divided in `_update`.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor

from vlm_rl import drift
from vlm_rl.advantages import Advantage
from vlm_rl.diagnostics import (
    Statistics,
    add_up,
    answer_statistics,
    mean_of,
    rollout_statistics,
    task_statistics,
)
from vlm_rl.kl_in_reward import KLInReward
from vlm_rl.objectives import POLICY_TERM, Objective, Sequences
from vlm_rl.optimizer import build_optimizer
from vlm_rl.policy import AdaptersOff, Policy
from vlm_rl.prompts import PromptEncoder
from vlm_rl.records import Batch, Groups, Prompt, Rollout, Rows, Statistic
from vlm_rl.rewards import Reward
from vlm_rl.rollout import Engine, Sampling
from vlm_rl.sampling import GroupFilter, Refill, Sampled, no_refill, sample_groups
from vlm_rl.settings import OptimizerSettings, UpdateSettings, ValidationSettings, check_groups
from vlm_rl.stages import Stages
from vlm_rl.weights import is_adapter

Metrics = dict[str, float]


class Update(NamedTuple):
    """What one optimizer update came to, on this process."""

    statistics: Statistics
    sequences: Sequences


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
        self._skipped_in_a_row = 0
        self._engine_is_current = False
        self._resumed_base: str | None = None
        self._frozen_checksum: str | None = None
        self._validation: Statistics = {}
        # outside the module tree: not saved, not optimised, not wrapped by a strategy
        needs_reference = objective.needs_reference or kl_in_reward is not None
        reference = policy.reference() if needs_reference else None
        self.__dict__["reference"] = reference

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Any]:
        seconds_before = dict(self.stages.seconds)
        sampled = self._sampled(prompts)
        rollout, statistics, sequences = sampled.trained, sampled.statistics, []
        advantages, minibatches = torch.zeros_like(rollout.scores.total), []
        found = drift.Drift({}, {}, None)
        if rollout.prompts:  # dynamic sampling may have found none worth training on
            rollout, advantages, batch = self._batch(rollout)
            statistics = add_up(statistics, rollout_statistics(rollout, advantages))
            found = drift.measure(batch)
            minibatches = batch.split(self._num_minibatches(batch))
        with self.stages("update"):  # up to here a step changes nothing: a run may stop in it
            self.refill_position = sampled.refill_position
            for minibatch in minibatches:
                update = self._update(minibatch)
                statistics = add_up(statistics, update.statistics)
                sequences.append(update.sequences)
            self._move_schedule(self.updates.num_minibatches - len(minibatches))
        self._engine_is_current = False
        self.completed_steps += 1
        self.trainer.should_stop = self.completed_steps >= self.steps
        metrics = self._reduced(statistics) | self._drift(found)
        metrics |= self._step_seconds(seconds_before)
        metrics["rollout/engine_restarts"] = self.engine.restarts
        self.log_metrics(metrics)
        outputs = {"rollout": rollout, "advantages": advantages, "sequences": sequences}
        alarm = drift.alarm(found.worst, self.drift_alarm)
        return outputs | {"dropped": sampled.dropped, "metrics": metrics, "alarm": alarm}

    def _sampled(self, prompts: Sequence[Prompt]) -> Sampled:
        """The groups of a step; with dynamic sampling those worth training on, and new ones in
        place of the others."""

        def sample(prompts: Sequence[Prompt], number: int) -> Rollout:
            kind = f"train {number}" if number else "train"
            return self._rollout(prompts, self.group_size, self.sampling, kind)

        return sample_groups(
            prompts, sample, group_filter=self.dynamic_sampling,
            refill=self.refill, refill_position=self.refill_position,
        )  # fmt: skip

    def _rollout(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, kind: str
    ) -> Rollout:
        """Sample a group per prompt and judge it."""
        groups = self.sample(prompts, group_size, sampling, kind)
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

    def _batch(self, rollout: Rollout) -> tuple[Rollout, Tensor, Batch]:
        """All that the updates read, with the rollout as its rewards are at last, and its
        advantages [P, G]. These come after the log-probabilities: a KL in the reward needs both."""
        trained = rollout.scores.scored
        if not self.updates.train_on_truncated:
            trained = trained & ~rollout.truncated
        rows = Rows.build(rollout.prompts, rollout.groups, trained=trained)
        with self.stages("logprobs"):
            old, ref = self._old_and_reference(rows)
        if self.kl_in_reward is not None and ref is not None:
            rollout = self.kl_in_reward(rollout, old, ref)
        advantages = self.advantage(rollout)
        batch = Batch.of(rows, old_logprobs=old, ref_logprobs=ref, advantages=advantages.float())
        return rollout, advantages, batch.to(self.device)

    def _old_and_reference(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities [B, T] at the weights that sampled, and the reference's where a term
        needs them."""
        reference: Policy | AdaptersOff | None = self.__dict__["reference"]
        old, ref = [], []
        # cut exactly as the updates will be: in bf16 another packing rounds otherwise, and GSPO's
        # band of 3e-4 would be filled with that noise
        parts = rows.split(self._num_minibatches(rows))
        limit = self.updates.micro_batch_tokens
        with torch.no_grad():
            for micro in (micro for part in parts for micro in part.micro_batches(limit)):
                old.append(self._logprobs(self.policy, micro))
                if reference is not None:
                    ref.append(self._logprobs(reference, micro))
        return torch.cat(old), torch.cat(ref) if ref else None

    def _num_minibatches(self, rows: Rows) -> int:
        """Fewer than configured where dynamic sampling has found fewer groups than that."""
        return min(self.updates.num_minibatches, len(rows.prompts))

    def _logprobs(self, policy: Policy | AdaptersOff, micro: Rows) -> Tensor:
        return policy.logprobs(micro, temperature=self.sampling.temperature).logprobs

    def _update(self, minibatch: Batch) -> Update:
        """One optimizer update; the only place that divides by a count of the batch."""
        micros = list(minibatch.micro_batches(self.updates.micro_batch_tokens))
        plan = self.objective.prepare(minibatch, self._all_sum)
        norms: dict[str, Tensor] = {}
        for micro in micros:
            for name, count in self.objective.normalizers(micro).items():
                norms[name] = norms.get(name, 0) + count
        norms = self._summed(norms)
        # strategies average gradients over processes, a sum over all rows is meant
        rank_factor = self.trainer.world_size
        statistics: Statistics = {}
        sequences = []
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for micro in micros:
            stats = self.policy.logprobs(
                micro,
                temperature=self.sampling.temperature,
                with_entropy=True,
            )
            loss = self.objective(stats, micro, plan)
            terms = [sums.sum() / norms[name].clamp(min=1) for name, sums in loss.terms.items()]
            value = torch.stack(terms).sum()
            self.manual_backward(value * rank_factor)
            total += value.detach()
            statistics = add_up(statistics, loss.statistics)
            sequences.append(loss.sequences)
        statistics |= self._step_optimizer(minibatch, total)
        if self.objective.stateful and "policy/loss" in statistics:
            self.objective.observe(self._reduced(statistics))
        return Update(statistics, Sequences.joined(sequences).weighted(1 / norms[POLICY_TERM]))

    def _step_optimizer(self, minibatch: Batch, loss: Tensor) -> Statistics:
        """Clip and step; skip, count and name what is not finite."""
        optimizer: Any = self.optimizers()
        limit = self.updates.max_grad_norm
        trained = [p for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(trained, float("inf") if limit is None else limit)
        loss = self._summed({"loss": loss})["loss"]
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        lr = optimizer.param_groups[0]["lr"]
        if finite:
            optimizer.step()
            self._skipped_in_a_row = 0
        else:
            self._skip([prompt.uid for prompt in minibatch.prompts])
        self._move_schedule(1)
        optimizer.zero_grad()
        one = torch.ones((), device=self.device)
        statistics = {"optim/skipped_updates": Statistic(one * (not finite), one)}
        if finite:
            statistics["policy/loss"] = mean_of(loss)
            statistics["optim/grad_norm"] = mean_of(norm)
            statistics["optim/lr"] = mean_of(one * lr)
        return statistics

    def _move_schedule(self, updates: int) -> None:
        """Also past updates that a step lacks: the learning rate is a function of the step."""
        scheduler: Any = self.lr_schedulers()
        with warnings.catch_warnings():
            # where the very first update is skipped it warns of a wrong order
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(updates):
                scheduler.step()

    def _skip(self, uids: list[str]) -> None:
        self.skipped_updates.append(uids)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > self.updates.max_skipped_updates:
            raise RuntimeError(
                f"{self._skipped_in_a_row} updates in a row had a loss or gradient that is not "
                f"finite, the last with problems {uids}; lower optimizer.lr or look at these"
            )

    @property
    def validates_now(self) -> bool:
        """Whether a validation follows the step just done."""
        step = self.completed_steps
        return step % self.validation.every_n_steps == 0 or step == self.steps

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Any]:
        if not prompts:
            return {}
        samples = self.validation.samples_per_problem
        with self.stages("validation"):
            rollout = self._rollout(prompts, samples, self.sampling, f"validation {batch_idx}")
            self._tally(answer_statistics(rollout) | task_statistics(rollout), "val")
            if self.validation.greedy:
                greedy = Sampling(0.0, self.sampling.max_completion_tokens)
                best = self._rollout(prompts, 1, greedy, "greedy")
                self._tally(answer_statistics(best) | task_statistics(best), "val_greedy")
        return {"rollout": rollout}

    def _tally(self, statistics: Statistics, prefix: str) -> None:
        named = {f"{prefix}/{name}": value for name, value in statistics.items()}
        self._validation = add_up(self._validation, named)

    def on_validation_epoch_end(self) -> None:
        metrics = self._reduced(self._validation)
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

    def _all_sum(self, value: Tensor) -> Tensor:
        """Summed over all processes, float64."""
        return self._summed({"": value})[""]

    def _summed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each scalar summed over all processes, float64."""
        stacked = torch.stack([v.to(self.device, torch.float64) for v in values.values()])
        summed = self.trainer.strategy.reduce(stacked, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return dict(zip(values, summed, strict=True))

    def _reduced(self, statistics: Statistics) -> Metrics:
        """Means over all processes; a metric without a single count is left out."""
        sums = self._summed({name: s.sum for name, s in statistics.items()})
        counts = self._summed({name: s.count for name, s in statistics.items()})
        return {name: float(sums[name] / counts[name]) for name in sums if counts[name] > 0}

    def _drift(self, found: drift.Drift) -> Metrics:
        """Measures of drift over all processes."""
        reduce = self.trainer.strategy.reduce
        maxima = {
            name: float(reduce(value.to(self.device), reduce_op="max"))
            for name, value in found.maxima.items()
        }
        return drift.measures(self._reduced(found.sums) | maxima) if found.sums else {}

    def _step_seconds(self, before: Mapping[str, float]) -> Metrics:
        seconds = {n: total - before.get(n, 0.0) for n, total in self.stages.seconds.items()}
        return {f"time/{name}_s": value for name, value in seconds.items() if value > 0}

    def log_metrics(self, metrics: Metrics) -> None:
        """Write metrics at the number of steps done."""
        # directly: `self.log` is silent in the validation before the first step, and would count
        # optimizer updates where the steps of the run are meant
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.completed_steps)

    def configure_optimizers(self) -> Any:
        num_updates = self.steps * self.updates.num_minibatches
        optimizer, scheduler = build_optimizer(self.policy, self.optimizer, num_updates)
        return [optimizer], [scheduler]

    def on_fit_start(self) -> None:
        if self.__dict__["reference"] is not None:
            self.__dict__["reference"].to(self.device)
        self.engine.start(self.policy, self.encoder, self.sampling)
        self._frozen_checksum = _checksum(self._frozen())
        if self._resumed_base not in (None, self._frozen_checksum):
            raise ValueError(
                "the checkpoint holds adapters alone, and the weights at policy.path below them "
                "are others than when it was written; put those back, or start a new run"
            )

    def on_fit_end(self) -> None:
        assert _checksum(self._frozen()) == self._frozen_checksum, "a frozen parameter has changed"

    def _frozen(self) -> list[Tensor]:
        return [p for p in self.policy.parameters() if not p.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        adapted = self.policy.has_adapters
        if adapted:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: w for n, w in weights.items() if is_adapter(n)}
        checkpoint["vlm_rl"] = {
            "completed_steps": self.completed_steps,
            "skipped_updates": self.skipped_updates,
            "skipped_in_a_row": self._skipped_in_a_row,
            "refill_position": self.refill_position,
            "validation_history": self.validation_history,
            "stage_seconds": self.stages.seconds,
            "objective": self.objective.state_dict(),
            "base": self._frozen_checksum if adapted else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["vlm_rl"]
        self.completed_steps = state["completed_steps"]
        self.skipped_updates = state["skipped_updates"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self.refill_position = state["refill_position"]
        self.validation_history = state["validation_history"]
        self.stages.seconds.update(state["stage_seconds"])
        self.objective.load_state_dict(state["objective"])
        self._resumed_base = state["base"]
        if self._resumed_base is not None:
            base = {n: w for n, w in self.state_dict().items() if not is_adapter(n)}
            checkpoint["state_dict"] = base | checkpoint["state_dict"]


def _checksum(parameters: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
