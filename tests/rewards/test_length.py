"""The length terms, and the coin.

Broken on purpose, each seen red: a slope of the trapezoid the wrong way round, a task's own corners
ignored, the length term left out of the sum, the coin without the uid.
"""

import pytest
import torch

from vlm_rl.records import Completion, Problem
from vlm_rl.rewards import Accuracy, Coin, LengthTrapezoid, Reward, SoftOverlong


def completion(length: int, token: int = 0) -> Completion:
    ids = torch.full((length,), token, dtype=torch.int64)
    return Completion(ids, torch.zeros(length), "stop", "")


def problem(uid: str = "a", task: str = "") -> Problem:
    return Problem(uid, "question", "5", task=task)


@pytest.mark.parametrize(
    ("length", "expected"),
    # corners 2, 4, 6, 10: up by a half a token, down by a quarter
    [(0, 0), (2, 0), (3, 0.5), (4, 1), (5, 1), (6, 1), (7, 0.75), (9, 0.25), (10, 0), (99, 0)],
)
def test_trapezoid_golden(length, expected):
    term = LengthTrapezoid(2, 4, 6, 10)
    assert term([problem()], [[completion(length)]]).tolist() == [[expected]]


def test_trapezoid_without_slopes_and_with_corners_of_a_task():
    term = LengthTrapezoid(0, 0, 5, 5, tasks={"chart": [10, 20, 20, 30]})
    group = [completion(0), completion(5), completion(6), completion(15)]
    values = term([problem(), problem("b", "chart")], [group, group])
    assert values.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0.5]]


@pytest.mark.parametrize("corners", [(4, 2, 6, 10), (-1, 0, 1, 2), (0, 1, 3, 2)])
def test_trapezoid_refuses(corners):
    with pytest.raises(ValueError, match="needs 0 <= least <= low <= high <= most in tokens, got"):
        LengthTrapezoid(*corners)


def test_length_term_is_a_term_of_its_own():
    length = SoftOverlong(max_completion_tokens=8, buffer_tokens=4, weight=0.5)
    with Reward({"accuracy": Accuracy()}, length=length) as reward:
        scores = reward([problem()], [[completion(4), completion(6)]])
    assert scores.terms["length"].tolist() == [[0.0, -0.5]]
    assert scores.total.tolist() == [[0.0, -0.25]]
    assert scores.weights == {"accuracy": 1.0, "length": 0.5}
    with pytest.raises(ValueError, match="'length' is the name of a metric of its own"):
        Reward({"accuracy": Accuracy(), "length": length})


def test_coin_is_fair_whatever_the_length_and_repeats():
    coin = Coin()
    problems = [problem(str(index)) for index in range(2000)]
    groups = [[completion(1), completion(40)] for _ in problems]
    values = coin(problems, groups)
    assert torch.equal(coin(problems, groups), values)
    assert (values.mean(0) - 0.5).abs().max() < 0.04
    # a problem's two answers are independent of each other
    assert torch.corrcoef(values.T)[0, 1].abs() < 0.06
