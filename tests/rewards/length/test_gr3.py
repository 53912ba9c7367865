"""Length rescaling of GR3, a factor of the reward.

Mutations tried, each seen red: the mean over unchecked completions too; a group of empty ones at 0;
a linear penalty in place of the fraction; a reward below 0 let through.
"""

import random

import pytest
import torch

from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Groups, Problem, Verdict
from vlm_rl.rewards import GR3, Judgement, JudgingTerm, Reward, SoftOverlong

ALPHA = 0.33


def group(*lengths: int) -> list[Completion]:
    return [
        Completion(torch.zeros(n, dtype=torch.int64), torch.zeros(n), "stop", str(index))
        for index, n in enumerate(lengths)
    ]


class Given(JudgingTerm):
    """Values by the place in the group; right if above 0, not checked if None."""

    def __init__(self, *values: float | None) -> None:
        super().__init__(1.0)
        self.values = values

    def judge(self, problems: list[Problem], groups: Groups) -> Judgement:
        verdicts = [[self._verdict(int(c.text)) for c in group] for group in groups]
        values = [[self.values[int(c.text)] or 0.0 for c in group] for group in groups]
        return Judgement(torch.tensor(values, dtype=torch.float64), verdicts)

    def _verdict(self, index: int) -> Verdict:
        value = self.values[index]
        return Verdict.ERROR if value is None else Verdict.CORRECT if value else Verdict.WRONG


def rewarded(values: tuple[float | None, ...], lengths: tuple[int, ...]) -> torch.Tensor:
    reward = Reward({"right": Given(*values)}, factors={"gr3": GR3(ALPHA)}, max_unscored_frac=1.0)
    return reward([Problem("a", "?", "1")], [group(*lengths)]).total[0]


def test_golden():
    """Lengths 10, 20, 10 are 3/4, 3/2 and 3/4 of their mean 40/3.

    So the factors are 1 / 1.2475 and 1 / 1.495. With rewards of 1, 0.5 and 0.8 the mean is
    0.592445, and what is above it 0.20915856, -0.25799648 and 0.04883792: the numbers that another
    implementation, of prime-rl, is tested with.
    """
    factors = GR3(ALPHA)([Problem("a", "?", "1")], [group(10, 20, 10)])
    assert factors.tolist()[0] == pytest.approx([1 / 1.2475, 1 / 1.495, 1 / 1.2475], abs=1e-12)
    total = rewarded((1.0, 0.5, 0.8), (10, 20, 10))
    wanted = torch.tensor([0.20915856, -0.25799648, 0.04883792], dtype=torch.float64)
    assert torch.allclose(total - total.mean(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_reward_matches_a_loop_and_skips_what_was_not_checked(seed):
    drawn = random.Random(seed)
    values = tuple(drawn.choice([None, 0.0, 0.5, 1.0]) for _ in range(6))
    lengths = tuple(drawn.choice([0, drawn.randrange(50)]) for _ in range(6))
    checked = [n for n, value in zip(lengths, values, strict=True) if value is not None]
    for value, length, total in zip(values, lengths, rewarded(values, lengths), strict=True):
        if value is None:
            assert total == 0
        else:
            mean = sum(checked) / len(checked)
            ratio = length / mean if mean > 0 else 1.0
            assert float(total) == pytest.approx(value / (1.0 + ALPHA * ratio), abs=1e-12)


def test_properties():
    problem = [Problem("a", "?", "1")]
    lengths = (3, 40, 7, 0, 7)
    [factors] = GR3(ALPHA)(problem, [group(*lengths)]).tolist()
    assert sorted(factors, reverse=True) == [factors[i] for i in (3, 0, 2, 4, 1)], "shorter is more"
    assert factors[3] == 1, "an empty completion keeps all"
    [tenfold] = GR3(ALPHA)(problem, [group(*(10 * n for n in lengths))]).tolist()
    assert tenfold == pytest.approx(factors, abs=1e-12), "only relative length counts"
    for equal in (group(9, 9, 9), group(0, 0)):
        [same] = GR3(ALPHA)(problem, [equal]).tolist()
        assert same == pytest.approx([1 / (1 + ALPHA)] * len(equal)), "equal lengths, equal factors"
    assert rewarded((0.0, 0.0, 0.0), (5, 500, 0)).tolist() == [0, 0, 0], "all wrong stays nothing"
    right, wrong = rewarded((1.0, 0.0), (5000, 1))
    assert right > wrong, "no wrong completion is better than a right one"


def test_groups_do_not_touch_each_other():
    problems = [Problem(str(i), "?", "1") for i in range(3)]
    groups = [group(1, 2, 3), group(100, 100, 1), group(0, 0, 0)]
    together = GR3(ALPHA)(problems, groups)
    alone = [GR3(ALPHA)([p], [g]) for p, g in zip(problems, groups, strict=True)]
    assert torch.equal(together, torch.cat(alone))


def test_reward_below_zero_is_refused_since_a_long_one_would_gain():
    terms = {"right": Given(0.0, 1.0)}
    length = SoftOverlong(max_completion_tokens=8, buffer_tokens=4)
    reward = Reward(terms, length=length, factors={"gr3": GR3(ALPHA)})
    assert (reward([Problem("a", "?", "1")], [group(2, 3)]).total >= 0).all()
    with pytest.raises(PartError, match=r"Reward.factors.gr3 would shrink a reward below 0, -0.5 "):
        reward([Problem("a", "?", "1")], [group(6, 3)])
    for alpha in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match=r"GR3.alpha must be positive and finite, got"):
            GR3(alpha)
