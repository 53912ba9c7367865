"""Length of thinking, held down by how unsure the policy is in it."""

from collections.abc import Sequence

from torch import Tensor

from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards.length.group_term import GroupTerm, refuse_unfit, right


class PEAR(GroupTerm):
    """Phase entropy term of PEAR (https://arxiv.org/abs/2510.08026).

    -max(0, mean H before k - alpha * mean H from k on) for a right completion, 0 for any other. So
    beside an accuracy of weight 1 a right one has the paper's min(1, 1 - P). H is the entropy of
    the policy's whole vocabulary at each token, in nats, and k the place of the end of the
    thinking, `</think>`, whose token is the first of the answer. If a tokenizer writes it with
    several tokens, that is the last of them. Without one all is thinking; a phase without tokens
    has entropy 0. Published: alpha 1, and only the format reward for a wrong answer.
    """

    reads_policy = True

    def __init__(self, alpha: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        refuse_unfit(self, {"alpha": (alpha, alpha >= 0, "at least 0; PEAR has 1")})
        self.alpha = alpha

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        return [
            -self._penalty(completion) if right(verdict) else 0.0
            for completion, verdict in zip(group, verdicts, strict=True)
        ]

    def _penalty(self, completion: Completion) -> float:
        assert completion.entropies is not None, "a reward that reads_policy is given entropies"
        thinking = completion.thinking_tokens
        end = len(completion) if thinking is None else thinking - 1
        before, after = completion.entropies[:end], completion.entropies[end:]
        return max(0.0, _mean(before) - self.alpha * _mean(after))


def _mean(entropies: Tensor) -> float:
    return float(entropies.double().mean()) if len(entropies) else 0.0
