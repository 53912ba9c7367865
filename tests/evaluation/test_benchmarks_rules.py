"""Rules of We-Math, DynaMath, LogicVista and MathVerse against what their authors' code does.

Broken on purpose, one at a time, each seen red:
    wemath.py: a box not read first; brackets left out as well; the first "Answer"
    dynamath.py: float within 0.01; four characters of a choice; words of a text; π left out
    logicvista.py: letters in any spelling
    mathverse.py: golds left in brackets; names of values kept
    mathverse.py: free answers ruled
"""

import json

import pytest

from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import problem_of
from vlm_rl.records import Problem


def problem(answer, answer_type=None, **meta):
    return Problem(uid="1", question="q", answer=answer, answer_type=answer_type, meta=meta)


def authors_letter(response):
    """Read a response as evaluation/accuracy.py of We-Math does, written by its description."""
    rest = response[response.rfind("Answer") + 6 :] if "Answer" in response else response
    kept = "".join(character for character in rest.strip() if character not in "<>:.").strip()
    return kept[:1] if kept[:1] in set("ABCDEFGH") else None


BEFORE = ("", "Answer: ", "<Answer>: ", "Answer\n", "Thought: B. Answer: C. Answer: ", "ANSWER: ")
AROUND = ("{}", " {} ", "<{}>", "({})", "**{}**", "{}. 400", "The answer is {}", "{}oth", "x {}")


@pytest.mark.parametrize("letter", ["A", "B", "H", "I", "b"])
def test_wemath_without_a_box_is_read_as_its_authors_do(letter):
    for before in BEFORE:
        for around in AROUND:
            response = before + around.format(letter)
            ruling = BENCHMARKS["wemath"].official(problem(letter), response)
            assert ruling.answer == authors_letter(response), response
            assert ruling.correct is (ruling.answer == letter), response


@pytest.mark.parametrize("around", [*AROUND[:5], "{}. 400", r"\text{{({})}}", "option {}"])
def test_wemath_box_goes_before_all_else(around):
    for before in (*BEFORE, "Answer: C "):
        response = f"{before}\\boxed{{{around.format('B')}}} Answer: A."
        assert BENCHMARKS["wemath"].official(problem("B"), response).correct, response


@pytest.mark.parametrize(
    ("gold", "kind", "answer", "correct"),
    [
        ("2.0944", "float", "2.094", True),
        ("2.0944", "float", "2.0955", False),
        ("6.2832", "float", "2π", True),
        ("6.2832", "float", "2π/3", True),  # the authors read up to the π
        ("6.2832", "float", "π", False),
        ("28.5", "float", "28.5 degrees", True),
        ("28.5", "float", "28.5°", False),
        ("0.5", "float", "1/2", False),
        ("1234", "float", "1,234", False),
        ("1234", "float", "about 1234", False),
        ("5", "float", "nan", False),
        ("B", "multiple choice", "B", True),
        ("B", "multiple choice", "b", False),
        ("B", "multiple choice", "B) 14", True),
        ("B", "multiple choice", "[B]", True),
        ("A", "multiple choice", "AB", True),
        ("B", "multiple choice", "14 B", False),
        ("B", "multiple choice", "Blue", True),
        ("G", "text", "EGF", True),
        ("Sep", "text", "September", True),
        ("Jul", "text", "in Jul.", True),
        ("Jul", "text", "july", False),
        ("4:45", "text", "04:45", True),
        ("12", "integer", "112", True),
    ],
)
def test_dynamath_short_answer_is_judged_as_by_its_authors(gold, kind, answer, correct):
    """Wherever the short answer stands."""
    asked = problem(gold, categories={"answer_type": kind})
    for response in (
        json.dumps({"solution": "x is 3", "short answer": answer}),
        json.dumps({"short answer": answer}, indent=2),
        "```json\n" + json.dumps({"solution": "{}", "short answer": answer}) + "\n```",
        '{"solution": "a \\( b", "short answer": "' + answer + '"',  # no JSON
        rf"so it is \boxed{{{answer}}}",
        rf"so it is \boxed{{\text{{{answer}}}}}",
    ):
        ruling = BENCHMARKS["dynamath"].official(asked, response)
        assert ruling.correct is correct, (response, ruling)
        assert not ruling.by_reading


def test_dynamath_box_may_hold_the_latex_of_a_number():
    asked = problem("6.2832", categories={"answer_type": "float"})
    for answer in (r"2\pi", r"6.283^\circ", "$6.283$"):
        assert BENCHMARKS["dynamath"].official(asked, rf"\boxed{{{answer}}}").correct, answer
    assert not BENCHMARKS["dynamath"].official(asked, r"\boxed{}").correct


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [
        ("B, D", r"\boxed{D and B}", True),
        ("B, D", r"\boxed{B}", False),
        ("B", "The answer is (B) because it turns", True),
        ("B", r"\boxed{Both}", False),
        ("B", r"\boxed{B}, so it is option C.", True),
    ],
)
def test_logicvista_letters_must_be_the_same_set(gold, response, correct):
    ruling = BENCHMARKS["logicvista"].official(problem(gold, options={}), response)
    assert ruling.correct is correct
    assert ruling.by_reading


def test_logicvista_reads_a_number_where_the_gold_is_one():
    number = problem("3", answer_type="number", options={})
    assert BENCHMARKS["logicvista"].official(number, r"\boxed{3}").correct
    assert not BENCHMARKS["logicvista"].official(number, r"\boxed{C}").correct


def mathverse(answer, question="Find it.\nChoices:\nA: 3\nB. 14\nC:40\u00b0", kind="multi-choice"):
    row = {
        "sample_index": 1,
        "problem_index": 1,
        "problem_version": "Text Lite",
        "question": question,
        "image": "x.png",
        "answer": answer,
        "question_type": kind,
        "metadata": {"subject": "Plane Geometry"},
    }
    return problem_of(BENCHMARKS["mathverse"], row)


@pytest.mark.parametrize("gold", ["B", "(B)", " B ", "(B)\n", "14"])
@pytest.mark.parametrize("question", ["Choices", "Choice"])
def test_mathverse_gold_of_a_choice_is_its_letter_in_any_form(gold, question):
    asked = mathverse(gold, f"Find it.\n{question}:\nA: 3\nB. 14\nC:40")
    assert (asked.answer, asked.choices) == ("B", ("3", "14", "40"))
    for right in ("B", "(B)", r"\text{B}", "B. 14", "B:14", "14", "[B]"):
        ruling = BENCHMARKS["mathverse"].official(asked, rf"\boxed{{{right}}}")
        assert (ruling.correct, ruling.by_reading) == (True, True), right
        assert not BENCHMARKS["mathverse"].official(mathverse("C"), rf"\boxed{{{right}}}").correct
    assert not BENCHMARKS["mathverse"].official(asked, r"\boxed{15}").correct


@pytest.mark.parametrize("gold", ["A\nC", "(C), (A)", "A, C"])
def test_mathverse_gold_may_be_several_letters(gold):
    asked = mathverse(gold)
    assert asked.answer == "A, C"
    for given, correct in (("A, C", True), ("C and A", True), ("A", False), ("A, B, C", False)):
        assert BENCHMARKS["mathverse"].official(asked, rf"\boxed{{{given}}}").correct is correct


@pytest.mark.parametrize(
    "name", ["Weight ", "Area of sector ", " S.A. ", "slope ", "Total surface area ", ""]
)
@pytest.mark.parametrize("value", [r"63.3 \mathrm{~g}", r"9 \pi", "(20,10)", r"\frac{7}{4}"])
def test_mathverse_gold_without_the_name_of_its_value(name, value):
    for gold in (f"{name}$={value}$", f"{name}={value}"):
        assert mathverse(gold, "Find it.", "free-form").answer == value


@pytest.mark.parametrize("gold", ["y=-2 x+5", "x=5", "AB=CD", "a > b", "domain: [-4, 0)"])
def test_mathverse_gold_that_is_an_equation_stays_one(gold):
    assert mathverse(gold, "Find it.", "free-form").answer == gold
    assert mathverse("118\u63b3T", "Find it.", "free-form").answer == "118°T"


def test_mathverse_free_answers_are_left_to_a_judge():
    benchmark = BENCHMARKS["mathverse"]
    assert benchmark.official(problem("D", answer_type="choice"), r"\boxed{D: 140}").correct
    assert benchmark.official(problem("14"), r"\boxed{14}") is None
