"""How terms make a reward: whose verdicts count, what could not be scored, sums and products.

Mutations tried, each seen red: the failures of other terms left out of the verdicts; the factors
added; the first judge taken for the named one.
"""

import random

import pytest
import torch

from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import Coin, Judgement, JudgingTerm, Reward, RewardTerm

CORRECT, WRONG, ERROR, TIMEOUT = Verdict.CORRECT, Verdict.WRONG, Verdict.ERROR, Verdict.TIMEOUT
PROBLEMS, SIZE = 6, 4


def completions(seed: int = 0) -> tuple[list[Problem], list[list[Completion]]]:
    drawn = random.Random(seed)
    problems = [Problem(f"p{row}", "How many?", str(row)) for row in range(PROBLEMS)]
    groups = [
        [_completion([row, column, *range(drawn.randrange(9))]) for column in range(SIZE)]
        for row in range(PROBLEMS)
    ]
    return problems, groups


def _completion(tokens: list[int]) -> Completion:
    text = " ".join(map(str, tokens))
    return Completion(torch.tensor(tokens), torch.zeros(len(tokens)), "stop", text)


class Says(JudgingTerm):
    """The verdicts that it is given, by row and column; 1 for correct, junk where it failed."""

    def __init__(self, verdicts: list[list[Verdict]], weight: float = 1.0) -> None:
        super().__init__(weight)
        self.said = verdicts

    def judge(self, problems, groups) -> Judgement:
        rows = [[self.said[int(c.token_ids[0])][int(c.token_ids[1])] for c in g] for g in groups]
        values = [[{CORRECT: 1.0, WRONG: 0.0}.get(v, float("nan")) for v in row] for row in rows]
        return Judgement(torch.tensor(values, dtype=torch.float64), rows)


class Fails(RewardTerm):
    """The number of tokens, NaN for the places it is given."""

    may_fail = True
    last_failure = ": it was late"

    def __init__(self, places: set[tuple[int, int]], weight: float = 1.0) -> None:
        super().__init__(weight)
        self.places = places

    def __call__(self, problems, groups) -> torch.Tensor:
        rows = [
            [
                float("nan")
                if (int(c.token_ids[0]), int(c.token_ids[1])) in self.places
                else len(c)
                for c in group
            ]
            for group in groups
        ]
        return torch.tensor(rows, dtype=torch.float64)


def drawn_verdicts(seed: int, kinds: tuple[Verdict, ...] = (CORRECT, WRONG)) -> list[list[Verdict]]:
    drawn = random.Random(seed)
    return [[drawn.choice(kinds) for _ in range(SIZE)] for _ in range(PROBLEMS)]


def test_verdicts_are_those_of_the_named_term():
    problems, groups = completions()
    first, second = drawn_verdicts(1), drawn_verdicts(2)
    for name, said in (("a", first), ("b", second)):
        reward = Reward({"a": Says(first, 0.5), "b": Says(second, 2.0)}, verdicts_from=name)
        scores = reward(problems, groups)
        assert scores.verdicts == said
        value = {CORRECT: 1.0, WRONG: 0.0}
        for row, column in ((r, c) for r in range(PROBLEMS) for c in range(SIZE)):
            own = 0.5 * value[first[row][column]] + 2.0 * value[second[row][column]]
            assert scores.total[row, column] == own


@pytest.mark.parametrize("seed", range(20))
def test_what_any_term_could_not_score_is_in_no_statistic(seed):
    """Of both judges and of a term that may fail; the junk of a failure is nowhere."""
    problems, groups = completions()
    first = drawn_verdicts(seed, (CORRECT, WRONG, WRONG, TIMEOUT))
    second = drawn_verdicts(seed + 100, (CORRECT, WRONG, WRONG, ERROR))
    drawn = random.Random(seed)
    lost = {(drawn.randrange(PROBLEMS), drawn.randrange(SIZE)) for _ in range(3)}
    reward = Reward(
        {"a": Says(first), "b": Says(second), "own": Fails(lost)},
        verdicts_from="a",
        max_unscored_frac=1.0,
    )
    scores = reward(problems, groups)
    for row, column in ((r, c) for r in range(PROBLEMS) for c in range(SIZE)):
        one, two = first[row][column], second[row][column]
        if not one.scored:
            expected = one
        elif not two.scored:
            expected = two
        else:
            expected = ERROR if (row, column) in lost else one
        assert scores.verdicts[row][column] is expected
        assert bool(scores.scored[row, column]) == expected.scored
        if not expected.scored:
            assert scores.total[row, column] == 0
    for values in (scores.total, *scores.terms.values()):
        assert values.isfinite().all()


def test_too_many_failures_of_any_term_stop_with_its_name_and_reason():
    problems, groups = completions()
    said = drawn_verdicts(1)
    everywhere = {(row, column) for row in range(PROBLEMS) for column in range(SIZE)}
    with pytest.raises(PartError, match=r"reward term own .*Fails: 24 of 24 .*'p0'.*: it was late"):
        Reward({"a": Says(said), "own": Fails(everywhere)})(problems, groups)
    lost = [[ERROR] * SIZE] * PROBLEMS
    with pytest.raises(PartError, match=r"reward term b .*Says: 24 of 24 completions could not"):
        Reward({"a": Says(said), "b": Says(lost)}, verdicts_from="a")(problems, groups)


class Scale(RewardTerm):
    def __init__(self, by: float) -> None:
        super().__init__(1.0)
        self.by = by

    def __call__(self, problems, groups) -> torch.Tensor:
        return torch.tensor([[self.by * len(c) for c in g] for g in groups], dtype=torch.float64)


class One(RewardTerm):
    def __init__(self) -> None:
        super().__init__(1.0)

    def __call__(self, problems, groups) -> torch.Tensor:
        return torch.ones(len(groups), len(groups[0]), dtype=torch.float64)


def test_factors_multiply_the_whole_sum_and_match_a_loop():
    problems, groups = completions()
    said = drawn_verdicts(3)
    terms = {"a": Says(said, 0.7), "coin": Coin(0.4)}
    factors = {"short": Scale(0.25), "more": Scale(2.0)}
    scores = Reward(terms, length=Scale(-0.1), factors=factors)(problems, groups)
    assert list(scores.factors) == ["short", "more"]
    assert list(scores.parts) == ["a", "coin", "length", "short", "more"]
    coins = Coin()(problems, groups).tolist()
    for row, column in ((r, c) for r in range(PROBLEMS) for c in range(SIZE)):
        length = len(groups[row][column])
        added = 0.7 * (said[row][column] is CORRECT) + 0.4 * coins[row][column] - 0.1 * length
        expected = added * (0.25 * length) * (2.0 * length)
        assert scores.total[row, column].item() == pytest.approx(expected, abs=1e-12)


def test_factors_of_one_change_nothing():
    problems, groups = completions()
    terms = {"a": Says(drawn_verdicts(3), 0.7), "coin": Coin(0.4)}
    plain = Reward(terms)(problems, groups)
    ones = Reward(terms, factors={"x": One(), "y": One()})(problems, groups)
    assert torch.equal(plain.total, ones.total)


def test_order_of_problems_does_not_matter():
    problems, groups = completions()
    reward = Reward(
        {"a": Says(drawn_verdicts(4, (CORRECT, WRONG, WRONG, WRONG, ERROR)))},
        factors={"short": Scale(0.25)},
    )
    scores = reward(problems, groups)
    order = random.Random(5).sample(range(PROBLEMS), PROBLEMS)
    moved = reward([problems[i] for i in order], [groups[i] for i in order])
    assert torch.equal(moved.total, scores.total[order])
    assert list(moved.verdicts) == [scores.verdicts[i] for i in order]


def test_judge_of_another_shape_is_named():
    problems, groups = completions()
    reward = Reward({"a": Says(drawn_verdicts(1))})
    reward.terms["a"].judge = lambda *_: Judgement(torch.zeros(1, 1).double(), [[CORRECT]])
    with pytest.raises(PartError, match=r"reward term a .*Says must return a verdict for each"):
        reward(problems, groups)
