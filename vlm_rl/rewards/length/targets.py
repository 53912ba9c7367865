"""Length beside a target: one for all rows, or one that the prompt names."""

from collections.abc import Sequence
from typing import Any, Literal

from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards.length.group_term import GroupTerm, RowTerm, refuse_unfit, right

LaserMode = Literal["reward", "penalty", "hybrid"]


class LASER(GroupTerm):
    """Step reward of LASER (https://arxiv.org/abs/2505.15612, github.com/hkust-nlp/Laser).

    A right completion of at most `target` tokens gets `bonus` in the modes `reward` and `hybrid`; a
    longer right one loses it in `penalty` and `hybrid`. A completion that is not right gets
    `wrong`, whatever its length. Published: right is worth 1, beside which stand a bonus of 0.5 and
    -0.5 for wrong; targets of 2048, 4096 and 8192. Its value of a failed format was not found.
    """

    def __init__(
        self,
        target: int,
        bonus: float = 0.5,
        wrong: float = -0.5,
        mode: LaserMode = "reward",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if mode not in ("reward", "penalty", "hybrid"):
            raise ValueError(f"LASER.mode must be reward, penalty or hybrid, got {mode!r}")
        refuse_unfit(
            self,
            {
                "target": (target, target >= 1, "at least 1 token; LASER has 4096"),
                "bonus": (bonus, bonus > 0, "above 0; LASER has 0.5"),
                "wrong": (wrong, wrong <= 0, "at most 0; LASER has -0.5"),
            },
        )
        self.target, self.wrong = target, wrong
        self.within = bonus if mode != "penalty" else 0.0
        self.beyond = -bonus if mode != "reward" else 0.0

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        return [
            (self.within if len(completion) <= self.target else self.beyond)
            if right(verdict)
            else self.wrong
            for completion, verdict in zip(group, verdicts, strict=True)
        ]


class TargetTerm(RowTerm):
    """A term with a target length in tokens for each row, under `key` of its `meta`."""

    remedy = ", or draw targets by data.length_targets"

    def __init__(self, alpha: float, key: str, weight: float) -> None:
        super().__init__(key, weight)
        refuse_unfit(self, {"alpha": (alpha, alpha > 0, "above 0; L1 has 3e-4 for each token")})
        self.alpha = alpha

    def wanted(self, said: Any) -> str | None:
        if isinstance(said, int) and not isinstance(said, bool) and said >= 1:
            return None
        return "it must be a whole number of tokens, at least 1"


class L1Exact(TargetTerm):
    """Length term of LCPO-Exact (L1, https://arxiv.org/abs/2503.04697).

    -alpha * |target - L|, right or wrong, so that beside an accuracy of weight 1 the reward is
    1[right] - alpha * |target - L|. Published: alpha 3e-4, the target said at the end of the
    prompt, which `data.length_targets` does.
    """

    def __init__(
        self, alpha: float = 3e-4, key: str = "target_length", weight: float = 1.0
    ) -> None:
        super().__init__(alpha, key, weight)

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        return self.of_row(problem, group, self._value)

    def _value(self, target: int, length: int) -> float:
        return -self.alpha * abs(target - length)


class L1Max(TargetTerm):
    """Length factor of LCPO-Max (L1, https://arxiv.org/abs/2503.04697), one of `Reward.factors`.

    clip(alpha * (target - L) + delta, 0, 1), so that an accuracy of weight 1 becomes
    1[right] * clip(...). Published: alpha 3e-4, delta 0.5. At the target a right answer keeps
    `delta`, and nothing from delta / alpha tokens beyond it.
    """

    shrinks = True

    def __init__(
        self,
        alpha: float = 3e-4,
        delta: float = 0.5,
        key: str = "target_length",
        weight: float = 1.0,
    ) -> None:
        super().__init__(alpha, key, weight)
        refuse_unfit(self, {"delta": (delta, 0 < delta <= 1, "in (0, 1]; L1 has 0.5")})
        self.delta = delta

    def of_group(
        self, problem: Problem, group: Sequence[Completion], verdicts: Sequence[Verdict]
    ) -> list[float]:
        return self.of_row(problem, group, self._value)

    def _value(self, target: int, length: int) -> float:
        return min(1.0, max(0.0, self.alpha * (target - length) + self.delta))
