"""Malformed answers: each kind has its one verdict, and a fault of the data is named in one line.

Mutations tried, each seen red: the gold's fault counted as wrong in `matching`; `_without_asking`
giving WRONG for no answer; `>` turned to `<` in `_refuse_failing_checks`.
"""

import logging

import pytest
import torch

from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import Accuracy, Reward


@pytest.fixture(scope="module")
def accuracy():
    term = Accuracy(timeout_s=1.0)
    yield term
    term.close()


def completion(text):
    return Completion(torch.zeros(4, dtype=torch.int64), torch.zeros(4), "stop", text)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("", Verdict.UNPARSABLE),
        ("the answer is 5", Verdict.UNPARSABLE),
        (r"\boxed{}", Verdict.UNPARSABLE),
        (r"\boxed{5", Verdict.UNPARSABLE),
        (r"<think> \boxed{5}", Verdict.UNPARSABLE),
        (r"<think> \boxed{5} </think> done", Verdict.UNPARSABLE),
        (r"\boxed{3} and \boxed{5}", Verdict.WRONG),
        (r"\boxed{" + "9" * 5000 + "}", Verdict.UNPARSABLE),
        (r"\boxed{\frac{}" + "{" * 200 + "}", Verdict.UNPARSABLE),
        ("\x00\x07\\boxed{\x00}", Verdict.UNPARSABLE),
        (r"\boxed{9^{9^{9^{9}}}}", Verdict.UNPARSABLE),
    ],
)
def test_malformed_completion_has_its_verdict(accuracy, text, verdict):
    problem = Problem("p0", "how many?", "5", answer_type="number")
    assert accuracy.judge([problem], [[completion(text)]]).verdicts == [[verdict]]


@pytest.mark.parametrize(
    "problem",
    [
        Problem("p0", "q", "twelve apples and pears", answer_type="number"),
        Problem("p0", "q", r"\frac{", answer_type="latex"),
        Problem("p0", "q", "E", answer_type="choice", choices=("1", "2")),
        Problem("p0", "q", "5 or so", answer_type="number_unit"),
        Problem("p0", "q", "3 to", answer_type="ratio"),
        Problem("p0", "q", "about half", answer_type="percent"),
        Problem("p0", "q", "(1, 2", answer_type="tuple"),
        Problem("p0", "q", "9^{9^{9^{9}}}", answer_type="number"),
        Problem("p0", "q", "7" * 2000, answer_type="expression"),
    ],
    ids=lambda problem: str(problem.answer_type),
)
def test_malformed_gold_is_an_error_named_in_one_line(accuracy, problem, caplog):
    with caplog.at_level(logging.WARNING):
        verdicts = accuracy.judge([problem], [[completion(r"\boxed{12}")]]).verdicts
    assert verdicts == [[Verdict.ERROR]]
    (line,) = caplog.messages
    assert "problem 'p0'" in line
    assert "\n" not in line


def test_problems_that_can_never_be_scored_are_named_in_a_line_each(accuracy):
    good = Problem("p0", "q", "5", answer_type="number")
    bad_gold = Problem("p1", "q", "soon", answer_type="number")
    (gold,) = accuracy.unusable([good, bad_gold])
    assert gold == (
        "problem 'p1': its answer 'soon' cannot be read as a number; "
        "mend it, or give its answer_type"
    )


def test_run_stops_when_too_many_answers_cannot_be_checked():
    bad = Problem("p7", "q", "soon", answer_type="number")
    good = Problem("p0", "q", "5", answer_type="number")
    groups = [[completion(r"\boxed{5}")] * 32] * 2
    with Reward({"accuracy": Accuracy()}, max_unscored_frac=0.5) as reward:
        assert reward([good, bad], groups).scored.tolist() == [[True] * 32, [False] * 32]
    with (
        Reward({"accuracy": Accuracy()}, max_unscored_frac=0.4) as reward,
        pytest.raises(
            RuntimeError, match=r"32 of 64 completions could not be scored.*'p7'.*'soon'"
        ),
    ):
        reward([good, bad], groups)
