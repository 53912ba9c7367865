"""From a rollout to all that the updates read."""

from torch import Tensor

from vlm_rl.distributed.gather import Places
from vlm_rl.distributed.lockstep import Cut, Lockstep
from vlm_rl.model.reference import Reference
from vlm_rl.records import Batch, Rollout, Rows
from vlm_rl.rewards import KLInReward
from vlm_rl.training.before import Before
from vlm_rl.training.clock import Clock
from vlm_rl.training.credit import Credit, Credited
from vlm_rl.training.forwards import Forwards
from vlm_rl.training.step import StepBatch


class Batching:
    """Makes the batch of a step: advantages by `credit`, forwards by `lockstep`, log-probabilities
    of before by `forwards`.

    Completions that ran out of tokens are sequences of the loss if `train_on_truncated`.
    """

    def __init__(
        self,
        lockstep: Lockstep,
        forwards: Forwards,
        credit: Credit,
        clock: Clock,
        *,
        kl_in_reward: KLInReward | None,
        train_on_truncated: bool,
    ) -> None:
        self.lockstep = lockstep
        self.forwards = forwards
        self.credit = credit
        self.clock = clock
        self.kl_in_reward = kl_in_reward
        self.train_on_truncated = train_on_truncated

    def build(
        self, rollout: Rollout, places: Places, reference: Reference | None, step: int
    ) -> StepBatch:
        """Make all that the updates of a step read.

        An advantage may look at every group of the step; those of 0 may leave rows out of all
        forwards. A KL in the reward needs the log-probabilities of all rows before there are
        advantages.
        """
        rows = Rows.build(rollout.prompts, rollout.groups, trained=self._trainable(rollout))
        if self.kl_in_reward is None:
            credited = self.credit(rollout, places, step)
            cut = self.lockstep.cut(rows, places, self._counts(rows, credited))
        else:
            cut = self.lockstep.cut(rows, places)
        if self.forwards.kept is not None:
            with self.clock("vision"):
                self.forwards.kept.prepare(cut.prompts(rows))
        has_old = self._needs_old(cut)
        with self.clock("logprobs"):
            before = self.forwards.before(rows, cut) if has_old else Before.unknown(rows, cut)
            ref = None if reference is None else self.forwards.logprobs(reference, rows, cut)
        if self.kl_in_reward is not None:
            assert ref is not None
            if rollout.prompts:
                rollout = self.kl_in_reward(rollout, before.logprobs, ref)
            credited = self.credit(rollout, places, step)
        batch = Batch.of(
            rows,
            old_logprobs=before.logprobs,
            ref_logprobs=ref,
            advantages=credited.of_rows(rows),
            expert_loads=before.expert_loads,
            step=step,
        ).to(self.forwards.policy.device)
        return StepBatch(
            credited.rollout,
            credited.everyone,
            places.own,
            credited.advantages,
            batch,
            cut,
            cut.minibatches(batch),
            has_old,
            before.routers,
        )

    def _trainable(self, rollout: Rollout) -> Tensor:
        """[P, G] bool: completions that are sequences of the loss."""
        scored = rollout.scores.scored
        return scored if self.train_on_truncated else scored & ~rollout.truncated

    def _counts(self, rows: Rows, credited: Credited) -> Tensor | None:
        """Return which rows [B] the updates learn from; None if the objective needs all."""
        if self.forwards.objective.needs_all_rows:
            return None
        return (credited.of_rows(rows) != 0).any(dim=1) & (rows.lengths > 0)

    def _needs_old(self, cut: Cut) -> bool:
        """Whether the old log-probabilities must be known before the first update.

        A single update takes them from its own forwards: the weights are still those of the start.
        """
        looks_ahead = self.forwards.objective.looks_ahead
        return cut.num_updates != 1 or looks_ahead or self.kl_in_reward is not None
