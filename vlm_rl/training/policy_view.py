"""What the policy itself says of the tokens that were sampled, for rewards that ask."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from vlm_rl import ranks
from vlm_rl.distributed.gather import Places
from vlm_rl.distributed.lockstep import Lockstep
from vlm_rl.model.policy import Policy
from vlm_rl.records import Groups, Prompt, Rows


class PolicyView:
    """Computes log-probabilities and entropies in forwards of at most `micro_batch_tokens` tokens.

    Make it before weights are sharded.
    """

    def __init__(self, policy: Policy, *, micro_batch_tokens: int) -> None:
        self._policy = policy
        self._lockstep = Lockstep(policy, num_minibatches=1, micro_batch_tokens=micro_batch_tokens)

    def seen(self, prompts: Sequence[Prompt], groups: Groups, temperature: float) -> Groups:
        """Return the completions with `logprobs` and `entropies` of the policy as it is now.

        Temperature 0 has neither; they are those of 1 then. Every rank calls it, also without
        prompts.
        """
        trained = torch.ones(len(groups), len(groups[0]) if groups else 0, dtype=torch.bool)
        rows = Rows.build(prompts, groups, trained)
        cut = self._lockstep.cut(rows, Places.of(ranks.gather(len(prompts))))
        with torch.no_grad():
            stats = [
                self._policy.logprobs(forward, temperature=temperature or 1.0, with_entropy=True)
                for forward in cut.forwards(rows)
            ]
        entropies = [of_forward.entropy for of_forward in stats if of_forward.entropy is not None]
        logprobs = iter(cut.joined(rows, [s.logprobs for s in stats]).float().cpu())
        uncertain = iter(cut.joined(rows, entropies).float().cpu())
        return [
            [
                replace(c, logprobs=next(logprobs)[: len(c)], entropies=next(uncertain)[: len(c)])
                for c in group
            ]
            for group in groups
        ]
