"""Reward terms and their weighted sum."""

import json
import logging
import time

import pytest
import torch
from jsonargparse import ArgumentParser

from tests.support.places import SHARED
from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import Accuracy, Coin, Format, Reward, SoftOverlong
from vlm_rl.verification import choices, equality, matching
from vlm_rl.verification.pool import Reading

REFERENCE = SHARED / "reference"


def completion(text, length=4, finish_reason="stop"):
    ids = torch.zeros(length, dtype=torch.int64)
    return Completion(ids, torch.zeros(length), finish_reason, text)


def problem(answer, **fields):
    return Problem("p0", "how many?", answer, **fields)


@pytest.fixture(scope="module")
def accuracy():
    term = Accuracy(timeout_s=1.0)
    yield term
    term.close()


def verdict_of(accuracy, asked, text):
    return accuracy.judge([asked], [[completion(text)]]).verdicts[0][0]


def test_five_verdicts(accuracy, caplog):
    sines = "+".join(["2^{-4000}", *(rf"\sin {n}" for n in range(1, 120))])
    root, slow = problem(r"\frac{\sqrt{3}}{3}"), problem(sines, answer_type="latex")
    texts = [r"\boxed{\frac{1}{\sqrt{3}}}", r"\boxed{2}", "about 0.58"]
    with caplog.at_level(logging.WARNING):
        (row,) = accuracy.judge([root], [[completion(text) for text in texts]]).verdicts
        row.append(verdict_of(accuracy, slow, rf"\boxed{{{sines}+1-1}}"))
        bad_gold = problem(r"\frac{", answer_type="latex")
        row.append(verdict_of(accuracy, bad_gold, r"\boxed{\frac{1}{2}}"))
    assert row == list(Verdict)
    endings = [record.getMessage().partition(" ended in ")[2] for record in caplog.records]
    assert [ending.split()[0] for ending in endings] == [Verdict.TIMEOUT, Verdict.ERROR]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("1", "correct"), ("one", "correct"), ("2", "wrong"), ("two", "wrong")],
)
@pytest.mark.parametrize("golds", [("1", "one"), ("one", "1"), ("7", "one", "1")])
def test_any_of_several_golds_counts(accuracy, answer, verdict, golds):
    asked = problem(golds[0], alternatives=golds[1:])
    assert verdict_of(accuracy, asked, rf"\boxed{{{answer}}}") == verdict
    assert verdict_of(accuracy, asked, answer) == Verdict.UNPARSABLE


def test_gold_that_cannot_be_read_leaves_open_what_no_other_decides(accuracy):
    """It might have been the one; and it is named before training."""
    asked = problem("5", answer_type="number", alternatives=("12 apples and pears",))
    assert verdict_of(accuracy, asked, r"\boxed{5}") == Verdict.CORRECT
    assert verdict_of(accuracy, asked, r"\boxed{6}") == Verdict.ERROR
    [line] = accuracy.unusable([asked])
    assert "'12 apples and pears' cannot be read as a number" in line


def test_accuracy_is_one_for_correct_and_zero_for_all_else(accuracy):
    values = accuracy(
        [problem("5"), problem("7")],
        [[completion(r"\boxed{5}"), completion("5")], [completion(r"\boxed{5}")] * 2],
    )
    assert values.dtype == torch.float64
    assert values.tolist() == [[1.0, 0.0], [0.0, 0.0]]


OPTIONS = ("12", "14", "16", "18")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        # several slots, or one that lists candidates
        (problem("5"), r"\boxed{3} or \boxed{5}"),
        (problem("5"), r"\boxed{3}\boxed{4}\boxed{5}"),
        (problem("5"), r"\boxed{3, 4, 5}"),
        (problem("5"), r"\boxed{\{4, 5\}}"),
        (problem("5"), r"\boxed{5 \text{ or } 6}"),
        (problem("5"), r"\boxed{5; 6}"),
        (problem("5"), r"\boxed{4-6}"),
        (problem("2"), r"\boxed{\pm 2}"),
        (problem("5", tolerance={"abs": 1}), r"\boxed{3, 5, 7}"),
        (problem("cat"), r"\boxed{cat or dog}"),
        (problem(r"\sqrt{2}"), r"\boxed{\sqrt{2} \text{ or } \sqrt{3}}"),
        (problem(r"\sqrt{2}"), r"\boxed{\pm\sqrt{2}}"),
        (problem(r"\{1, 2\}", answer_type="set"), r"\boxed{1, 2, 3}"),
        (problem("13:18", answer_type="time"), r"\boxed{13:18, 13:19}"),
        (problem("50%"), r"\boxed{50\%, 60\%}"),
        # only in the thinking, two blocks, placeholders, cut off
        (problem("5"), r"<think>\boxed{5}</think> done"),
        (problem("5"), r"<think>\boxed{5}"),
        (problem("5"), r"<think></think>"),
        (problem("5"), r"<think>a</think> \boxed{5} <think>b</think> \boxed{6} or \boxed{7}"),
        (problem("5"), r"\boxed{\text{the correct answer}}"),
        (problem("5"), r"\boxed{}"),
        (problem("5"), r"\boxed{final answer}"),
        (problem("5"), r"\boxed{...}"),
        (problem(r"x+1"), r"\boxed{\text{answer}}"),
        (problem("5"), r"\boxed{5"),
        (problem("4"), "I see 3 apples and 4 pears"),
        # identities, echoes and what is not evaluated
        (problem("5"), r"\boxed{3=5}"),
        (problem("5"), r"\boxed{x=x}"),
        (problem("5"), r"\boxed{2+3=?}"),
        (problem("5"), r"\boxed{x+2=7}"),
        (problem("5"), r"\boxed{\text{how many?}}"),
        (problem("5"), r"\boxed{how many?}"),
        (problem("x=5", answer_type="expression"), r"\boxed{x=x}"),
        (problem(r"\sqrt{3}"), r"\boxed{\sqrt{2}=\sqrt{3}}"),
        (problem("5"), r"\boxed{9^{9^{9^{9}}}}"),
        (problem("5"), r"\boxed{5 + 0 \cdot 10^{10^{10}}}"),
        # choices
        (problem("B", choices=OPTIONS), r"\boxed{A}\boxed{B}\boxed{C}\boxed{D}"),
        (problem("B", choices=OPTIONS), r"\boxed{A, B, C, D}"),
        (problem("B", choices=OPTIONS), r"\boxed{ABCD}"),
        (problem("B", choices=OPTIONS), r"\boxed{A \text{ or } B}"),
        (problem("B", choices=OPTIONS), r"\boxed{B. 16}"),
        (problem("B", choices=OPTIONS), r"\boxed{14, 16}"),
        (problem("B", choices=OPTIONS), r"\boxed{A. 12 B. 14 C. 16 D. 18}"),
        # out of the box that it is parsed in
        (problem("5", answer_style="tag"), r"<answer>4} \boxed{5</answer>"),
        (problem("5", answer_style="tag"), r"<answer>\boxed{4} \boxed{5}</answer>"),
        (problem("5", answer_style="tag"), "<answer>5</answer><answer>6</answer>"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.answer,
)
def test_reward_hacking_earns_nothing(accuracy, asked, text):
    assert verdict_of(accuracy, asked, text) in (Verdict.WRONG, Verdict.UNPARSABLE)


def test_reading_holds_the_answer_the_verdict_and_the_rule(accuracy):
    texts = [r"\boxed{5.0}", r"\boxed{5} \boxed{6}", "5", r"<think></think> \boxed{ 6 }"]
    assert accuracy.read(
        [problem("5"), problem("B", choices=OPTIONS)], [texts, [r"\boxed{b}"]]
    ) == [
        [
            Reading("5.0", Verdict.CORRECT, "number: same value"),
            Reading(None, Verdict.WRONG, "hedge: 2 different answers"),
            Reading(None, Verdict.UNPARSABLE, "no answer slot"),
            Reading("6", Verdict.WRONG, "number: another value"),
        ],
        [Reading("b", Verdict.CORRECT, "choice: letter")],
    ]


def test_unit_tolerance_and_style_of_the_problem_are_used(accuracy):
    asked = problem("5", answer_type="number_unit", unit="cm", tolerance={"abs": 0.5})
    assert verdict_of(accuracy, asked, r"\boxed{5.4 \text{ cm}}") is Verdict.CORRECT
    assert verdict_of(accuracy, asked, r"\boxed{5.4 \text{ m}}") is Verdict.WRONG
    lined = problem("5", answer_style="answer_line")
    assert verdict_of(accuracy, lined, "So\nAnswer: 5") is Verdict.CORRECT
    with pytest.raises(ValueError, match="problem 'p0': answer_style must be one of box"):
        accuracy.judge([problem("5", answer_style="prose")], [[completion("5")]])


def test_128_short_completions_take_milliseconds(accuracy):
    problems = [problem(str(k)) for k in range(16)]
    groups = [[completion(rf"so \boxed{{{k + j}}}") for j in range(8)] for k in range(16)]
    start = time.process_time()
    values = accuracy(problems, groups)
    assert time.process_time() - start < 0.5
    assert values.sum() == 16


@pytest.mark.parametrize(
    ("style", "text", "finish_reason", "expected"),
    [
        ("box", r"so \boxed{5}.", "stop", 1),
        ("box", r"so \boxed{5}.", "length", 0),
        ("box", r"\boxed{5}\boxed{5}", "stop", 0),
        ("box", r"\boxed{\boxed{5}}", "stop", 0),
        ("box", r"\boxed{ }", "stop", 0),
        ("box", r"\boxed{5} \boxed{6", "stop", 0),
        ("box", "5", "stop", 0),
        ("think_box", r"<think>\boxed{3} no</think> \boxed{5}", "stop", 1),
        ("think_box", r"<think> </think> \boxed{5}", "stop", 0),
        ("think_box", r"\boxed{5}", "stop", 0),
        ("think_answer", "<think>a</think>\n<answer>5</answer>\n", "stop", 1),
        ("think_answer", "<think>a</think><answer>5</answer>", "length", 0),
        ("think_answer", "<think>a</think><think>b</think><answer>5</answer>", "stop", 0),
        ("think_answer", "<think>a</think><answer>5</answer><answer>5</answer>", "stop", 0),
        ("think_answer", "<think>a</think> so <answer>5</answer>", "stop", 0),
        ("think_answer", "<think>a</think><answer>5</answer> bye", "stop", 0),
        ("think_answer", "<answer>5</answer><think>a</think>", "stop", 0),
        ("think_answer", "<think>a</think><answer> </answer>", "stop", 0),
        ("think_answer", "<think></think><answer>5</answer>", "stop", 0),
    ],
)
def test_format_is_all_or_nothing(style, text, finish_reason, expected):
    values = Format(style=style)([problem("5")], [[completion(text, finish_reason=finish_reason)]])
    assert values.dtype == torch.float64
    assert values.tolist() == [[expected]]


@pytest.mark.skipif(
    not REFERENCE.exists(),
    reason="the conformance cases are absent, set VLM_RL_SHARED",
)
def test_format_agrees_with_the_conformance_cases():
    lines = (REFERENCE / "verify_cases.jsonl").read_text().splitlines()
    cases = [case for case in map(json.loads, lines) if "expected_format" in case]
    for case in cases:
        style = "think_answer" if case.get("answer_style") == "tag" else "think_box"
        ((value,),) = Format(style=style)([problem("5")], [[completion(case["prediction"])]])
        assert bool(value) == case["expected_format"], case["why"]
    assert len(cases) > 10


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (20481, -1.0)],
)
def test_soft_overlong_matches_dapo(length, expected):
    term = SoftOverlong(max_completion_tokens=20480, buffer_tokens=4096)
    assert term([problem("5")], [[completion("", length)]]).tolist() == [[expected]]


@pytest.mark.skipif(
    not REFERENCE.exists(),
    reason="the worked examples are absent, set VLM_RL_SHARED",
)
def test_soft_overlong_matches_the_worked_examples():
    examples = json.loads((REFERENCE / "worked_examples.json").read_text())["overlong"]
    term = SoftOverlong(max_completion_tokens=20480, buffer_tokens=4096)
    for length, expected in examples.items():
        assert term([problem("5")], [[completion("", int(length))]]).item() == expected


def test_total_is_the_weighted_sum_and_terms_are_raw():
    terms = {
        "accuracy": Accuracy(weight=0.9),
        "format": Format(weight=0.1),
        "overlong": SoftOverlong(max_completion_tokens=8, buffer_tokens=4, weight=0.5),
    }
    group = [completion(r"\boxed{5}", 4), completion(r"\boxed{6}", 6), completion("5", 9)]
    with Reward(terms) as reward:
        scores = reward([problem("5")], [group])
    assert {name: value.tolist() for name, value in scores.terms.items()} == {
        "accuracy": [[1.0, 0.0, 0.0]],
        "format": [[1.0, 1.0, 0.0]],
        "overlong": [[0.0, -0.5, -1.0]],
    }
    # 0.9 + 0.1 + 0; 0 + 0.1 - 0.25; 0 + 0 - 0.5
    torch.testing.assert_close(
        scores.total, torch.tensor([[1.0, -0.15, -0.5]], dtype=torch.float64)
    )
    assert scores.verdicts == [[Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSABLE]]


def test_failed_checks_have_no_reward_and_are_not_scored():
    bad_gold = problem("12 apples and pears", answer_type="number")
    with Reward({"accuracy": Accuracy(), "format": Format()}) as reward:
        scores = reward([bad_gold], [[completion(r"\boxed{12}"), completion("12")]])
    assert scores.verdicts == [[Verdict.ERROR, Verdict.UNPARSABLE]]
    assert scores.total.tolist() == [[0.0, 0.0]]
    assert scores.terms["format"].tolist() == [[1.0, 0.0]]
    assert scores.scored.tolist() == [[False, True]]


def test_self_test_passes():
    with Reward({"accuracy": Accuracy()}) as reward:
        reward.self_test()


@pytest.mark.parametrize(
    ("module", "name", "broken", "message"),
    [
        (equality, "conversion", lambda *_: 1, r"for the number_unit gold '5 cm' is correct"),
        (matching, "same_words", lambda *_: False, "for the text gold 'parallel' is correct"),
        (choices, "same_words", lambda *_: True, r"for the choice gold 'D' is correct"),
    ],
)
def test_self_test_names_what_a_broken_matcher_gets_wrong(
    monkeypatch, accuracy, module, name, broken, message
):
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(RuntimeError, match=message):
        Reward({"accuracy": accuracy}).self_test()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Accuracy(weight=-1), "Accuracy.weight must be finite and not negative, got -1"),
        (lambda: Accuracy(answer_style="prose"), "Accuracy.answer_style must be one of box"),
        (lambda: Accuracy(timeout_s=0), "timeout_s must be a positive"),
        (lambda: Format(style="json"), "Format.style must be one of box"),
        (lambda: Format(weight=float("nan")), "Format.weight must be finite"),
        (lambda: SoftOverlong(8, 9), "SoftOverlong.buffer_tokens must be in"),
        (lambda: SoftOverlong(8, 0), "SoftOverlong.buffer_tokens must be in"),
        (lambda: Reward({"format": Format()}), "must hold a term that says what is right"),
        (
            lambda: Reward({"a": Accuracy(), "b": Accuracy()}),
            "several terms that judge: a, b; say by Reward.verdicts_from",
        ),
        (
            lambda: Reward({"a": Accuracy(), "b": Coin()}, verdicts_from="b"),
            "Reward.verdicts_from='b' must be one that judges: a",
        ),
        (
            lambda: Reward({"a": Accuracy()}, factors={"a": Coin()}),
            "Reward.factors.a has the name of a term",
        ),
        (
            lambda: Reward({"a": Accuracy()}, factors={"f": Format()}),
            "Reward.factors.f.weight is 0.1; a factor multiplies as it is",
        ),
        (
            lambda: Reward({"a": Accuracy()}, factors={"kl": Coin()}),
            "Reward.factors: 'kl' is the name of a metric",
        ),
        (
            lambda: Reward({"a": Accuracy(weight=0.4), "f": Format(weight=0.5)}),
            "Reward.terms.f.weight is 0.5, above the accuracy weight 0.4",
        ),
    ],
)
def test_unsound_configurations_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_reward_is_built_from_yaml(tmp_path):
    config = {
        "class_path": "vlm_rl.rewards.Reward",
        "init_args": {
            "terms": {
                "accuracy": {"class_path": "vlm_rl.rewards.Accuracy", "init_args": {"weight": 0.9}},
                "format": {"class_path": "vlm_rl.rewards.Format"},
            }
        },
    }
    path = tmp_path / "reward.yaml"
    path.write_text(json.dumps({"reward": config}))
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--reward", type=Reward)
    reward = parser.instantiate(parser.parse_args(["--config", str(path)])).reward
    assert {name: term.weight for name, term in reward.terms.items()} == {
        "accuracy": 0.9,
        "format": 0.1,
    }


@pytest.mark.parametrize("name", ["[a]", "a/b", "a\nb", "", "=1", "a b", "\x1b"])
def test_name_of_a_term_is_one_for_files_and_panels(name: str) -> None:
    with pytest.raises(ValueError, match="names a metric, a column and panels; use letters"):
        Reward({name: Accuracy()})
