"""KL to the reference as a part of the reward, without a gradient of its own."""

from dataclasses import replace

import torch
from torch import Tensor

from vlm_rl.objectives import Objective
from vlm_rl.objectives.regularizers import Estimator, divergence
from vlm_rl.records import Rollout


class KLInReward:
    """R_i <- R_i - kl_coef * sum_t k(d_it), d = log pi_old - log pi_ref (RLOO, PPO for language).

    k as in the regularizer `KL`. The default is k1: its expectation is the divergence, and without
    a gradient only the mean matters. The sum grows with the completion, so it is also a length
    penalty. Published for RLOO: 0.03 (arXiv:2402.14740).
    """

    def __init__(self, kl_coef: float, estimator: Estimator = "k1") -> None:
        if not kl_coef > 0:
            raise ValueError(
                f"kl_in_reward.kl_coef must be > 0, got {kl_coef}; to train without it, "
                "set kl_in_reward to null"
            )
        self.kl_coef = kl_coef
        self.estimator = estimator

    def check(self, objective: Objective, train_on_truncated: bool) -> None:
        """Raise ValueError if the rest of the configuration contradicts this term."""
        if objective.needs_reference:
            raise ValueError(
                "kl_in_reward and a KL among objective.regularizers hold the policy to its "
                "reference twice; keep one of them"
            )
        if not train_on_truncated:
            raise ValueError(
                "kl_in_reward needs the log-probabilities of every completion, which "
                "updates.train_on_truncated=false leaves out for those cut off; change one of them"
            )

    def __call__(self, rollout: Rollout, old_logprobs: Tensor, ref_logprobs: Tensor) -> Rollout:
        """Return the rollout with changed rewards, and with the sums under `terms["kl"]`.

        `old_logprobs`, `ref_logprobs` [P * G, T]. Completions that are not scored keep a total of
        0.
        """
        scores, lengths = rollout.scores, rollout.lengths.flatten()
        mask = torch.arange(old_logprobs.shape[1]) < lengths[:, None]
        difference = torch.where(mask, (old_logprobs - ref_logprobs).cpu().double(), 0.0)
        sums = divergence(difference, self.estimator).sum(-1).reshape(scores.total.shape)
        return replace(rollout, scores=scores.plus("kl", sums, -self.kl_coef))
