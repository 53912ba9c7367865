"""Answers cut out of text and matched with golds, mostly without any process."""

import subprocess
import sys
import time
from typing import get_args

import pytest

from vlm_rl.records import AnswerType
from vlm_rl.verification.algebra import NeedsAlgebra
from vlm_rl.verification.extraction import answers, boxes
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import ANSWER_TYPES, decide, infer_type
from vlm_rl.verification.reading import plain_number
from vlm_rl.verification.self_test import KNOWN_PAIRS


def test_every_answer_type_has_a_matcher():
    assert set(get_args(AnswerType)) == ANSWER_TYPES


def test_every_matcher_has_a_right_and_a_wrong_known_pair():
    pairs = {(gold.answer_type, expected) for gold, _, expected in KNOWN_PAIRS}
    assert pairs >= {(kind, decision) for kind in ANSWER_TYPES for decision in ("correct", "wrong")}


def test_checking_process_does_not_import_torch():
    code = "import sys, vlm_rl.verification.checker; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        (r"so \boxed{\frac{1}{2}} it is", "box", [r"\frac{1}{2}"]),
        (r"\boxed{\{1, 2\}}", "box", [r"\{1, 2\}"]),
        (r"\boxed{\boxed{5}}", "box", ["5"]),
        (r"\boxed{5} and again \boxed{ 5. }", "box", ["5"]),
        (r"\boxed{3} or \boxed{5}", "box", ["3", "5"]),
        (r"<think>\boxed{3}</think> \boxed{5}", "box", ["5"]),
        (r"<think>\boxed{5}</think>", "box", []),
        (r"<think>so \boxed{5}", "box", []),
        (r"\boxed{} \boxed{ }", "box", []),
        (r"cut off: \boxed{\frac{1}{2}", "box", []),
        ("the answer is 5", "box", []),
        ("<think>a</think><answer>\n5\n</answer>", "tag", ["5"]),
        (r"<answer>\boxed{5}</answer>", "tag", ["5"]),
        ("<answer>5</answer><answer>6</answer>", "tag", ["5", "6"]),
        ("<answer>5", "tag", []),
        ("steps\n**Answer:** 5\n", "answer_line", ["5"]),
        ("Answer: 5\nAnswer: 6", "answer_line", ["5", "6"]),
    ],
)
def test_answers_are_cut_out(text, style, expected):
    assert answers(text, style) == expected


def test_only_the_inner_of_nested_boxes_counts():
    assert boxes(r"\boxed{\boxed{5} } \boxed{6}") == ["5", "6"]
    assert boxes(r"\boxed{a \boxed{5} } \boxed{6}") == []
    assert boxes(r"\boxed{5} then \boxed{6") == []


@pytest.mark.parametrize("style", ["box", "tag", "answer_line"])
@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 20_000,
        r"\boxed{" * 20_000 + "}" * 20_000,
        "<answer>" * 30_000,
        "Answer: " + "* " * 60_000 + "x",
        "\n" * 100_000,
        "answer" + " " * 100_000,
        "<think>" * 20_000,
    ],
    ids=lambda text: text[:8].strip(),
)
def test_no_completion_makes_extraction_slow(text, style):
    start = time.process_time()
    answers(text, style)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000),
        (r"12\,345", 12345),
        (r"10{,}000", 10000),
        ("025", 25),
        ("\N{MINUS SIGN}3", -3),
        ("\N{FULLWIDTH DIGIT EIGHT}", 8),
        ("5.", 5),
        ("1.5e-3", 0.0015),
        (".5", 0.5),
        (r"\frac12", 0.5),
        (r"-\dfrac{1}{2}", -0.5),
        (r"3\frac{1}{2}", 3.5),
        (r"1.2 \times 10^{5}", 120000),
        ("1,5", None),
        ("1 2", None),
        ("2x", None),
        (r"\frac{1}{0}", None),
        ("2020-05-01", None),
    ],
)
def test_plain_numbers_are_read(text, value):
    assert (None if value is None else pytest.approx(value, abs=1e-15)) == plain_number(text)


@pytest.mark.parametrize(
    ("answer", "has_choices", "expected"),
    [
        ("B", True, "choice"),
        ("14", True, "choice"),
        ("E", False, "choice"),
        ("5", False, "number"),
        (r"\frac{1}{2}", False, "number"),
        ("140°", False, "number_unit"),
        (r"50\%", False, "percent"),
        ("listen", False, "text"),
        ("x", False, "latex"),
        (r"2\sqrt{3}", False, "latex"),
        ("(2, 1)", False, "tuple"),
    ],
)
def test_missing_answer_type_is_inferred(answer, has_choices, expected):
    assert infer_type(answer, has_choices) == expected


OPTIONS = ("12", "14", "16", "18")
LABELS = ("(c)", "(a)", "(b)")


@pytest.mark.parametrize(
    ("gold", "prediction", "expected"),
    [
        # choices: the letter, the value, both; never all letters, never a contradiction
        (Gold("B", "choice", OPTIONS), "b", "correct"),
        (Gold("B", "choice", OPTIONS), "14", "correct"),
        (Gold("B", "choice", OPTIONS), r"\textbf{(B)} 14", "correct"),
        (Gold("14", "choice", OPTIONS), "B", "correct"),
        (Gold("B", "choice", OPTIONS), "A, B, C, D", "wrong"),
        (Gold("B", "choice", OPTIONS), "A or B", "wrong"),
        (Gold("B", "choice", OPTIONS), "B. 16", "wrong"),
        (Gold("B", "choice", OPTIONS), "B or 16", "wrong"),
        (Gold("E", "choice"), "E.", "correct"),
        (Gold("A, C", "choice", OPTIONS), "C and A", "correct"),
        (Gold("(b)", "choice", LABELS), "(b)", "correct"),
        (Gold("(b)", "choice", LABELS), "(c)", "wrong"),
        (Gold("F", "choice", OPTIONS), "F", "error"),
        (Gold("5 cm", "choice", ("5 cm", "5 m")), r"5 \text{ m}", "wrong"),
        # numbers: exact for integers, relative for others, hedges wrong
        (Gold("5", "number"), "5.0", "correct"),
        (Gold("12", "number"), "12.0000004", "wrong"),
        (Gold("0.0000001", "number"), "0.0000002", "wrong"),
        (Gold("0.3333333", "number"), r"\frac{1}{3}", "correct"),
        (Gold("5", "number"), "x = 5", "correct"),
        (Gold("5", "number"), "3 = 5", "wrong"),
        (Gold("5", "number"), r"5 \text{ or } 6", "wrong"),
        (Gold("5", "number"), r"5\%", "wrong"),
        (Gold("1.2", "number", tolerance=(("decimals", 1),)), "1.24", "correct"),
        (Gold("1.2", "number", tolerance=(("decimals", 1),)), "1.26", "wrong"),
        (Gold("100", "number", tolerance=(("rel", 0.05),)), "105", "correct"),
        (Gold("100", "number", tolerance=(("abs", 1),)), "102", "wrong"),
        (Gold("100", "number", tolerance=(("digits", 1),)), "100", "error"),
        # units: may be missing, must not differ
        (Gold("5", "number_unit", unit="cm"), "5 centimeters", "correct"),
        (Gold("5", "number_unit", unit="cm"), r"5 \text{ m}", "wrong"),
        (Gold("60", "number_unit"), r"60^{\circ}", "correct"),
        (Gold("10 m/s", "number_unit"), r"10\ \mathrm{m/s}", "correct"),
        (Gold("10 m^2", "number_unit"), "10 m", "wrong"),
        (Gold(r"20\%", "percent"), "0.2", "correct"),
        (Gold("0.5", "percent"), r"0.5\%", "wrong"),
        # text and unreadable golds
        (Gold("equilateral triangle", "text"), " Equilateral  Triangle.", "correct"),
        (Gold("red", "text"), "red or blue", "wrong"),
        (Gold("5", "colour"), "5", "error"),
        (Gold("5", "number"), "", "unparsable"),
        (Gold("5", "number"), "5" + "0" * 2000, "unparsable"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.answer,
)
def test_decision(gold, prediction, expected):
    assert decide(gold, prediction, numeric=True)[0] == expected


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        (Gold("5", "number"), "5"),
        (Gold(r"\frac{1}{2}", "number"), "0.50"),
        (Gold("B", "choice", OPTIONS), "(B)"),
        (Gold("140°", "number_unit"), "140 degrees"),
        (Gold("yes", "text"), "Yes"),
    ],
)
def test_common_answers_need_no_process(gold, prediction):
    assert decide(gold, prediction, numeric=False)[0] == "correct"


def test_expressions_need_a_process():
    with pytest.raises(NeedsAlgebra):
        decide(Gold(r"2\sqrt{3}", "latex"), r"\sqrt{12}", numeric=False)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "2^{100000000}",
        "10000000!",
        "9!!",
        r"\binom{10^7}{5000000}",
        r"\int_0^{100} x^x dx",
        "(" * 100 + "5" + ")" * 100,
        "1 2",
    ],
)
def test_hazards_are_refused_unread(text):
    started = time.process_time()
    assert decide(Gold("5", "number"), text, numeric=True)[0] == "unparsable"
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("text", [r"e^{x^2}", "2^{10}", "5!", r"\binom{10}{3}", "x^{2^n}", "n!"])
def test_ordinary_powers_are_not_hazards(text):
    assert decide(Gold(text, "expression"), f"({text})", numeric=True)[0] == "correct"


def test_reading_a_unit_prints_nothing():
    """The table makes units of pint exact, of which pint would warn in the log of a run."""
    code = (
        "import logging; logging.basicConfig()\n"
        "from vlm_rl.verification.gold import Gold\n"
        "from vlm_rl.verification.matching import decide\n"
        "print(decide(Gold('5 acres', answer_type='number_unit'), '5 acre', numeric=True)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("correct\n", "")
