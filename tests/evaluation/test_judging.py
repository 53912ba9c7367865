"""Both rulings on a response, and which answers of a problem are one answer.

Broken on purpose, one at a time, each seen red:
    right answers no class of their own; only one spelling an answer; all wrong answers one answer
    answers compared with the gold and not with each other; a stored extraction not looked at
    no official ruling; a refused problem with the rule of an empty text
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import Judged, Response
from vlm_rl.evaluation.judging import judge
from vlm_rl.records import Problem, Verdict
from vlm_rl.rewards import Accuracy


@pytest.fixture(scope="module")
def accuracy() -> Iterator[Accuracy]:
    accuracy = Accuracy(workers=2)
    yield accuracy
    accuracy.close()


def problem(uid: str, answer: str, **fields: object) -> Problem:
    meta = {"gold": answer, "gold_value": ""}
    return Problem(uid=uid, question="q", answer=answer, meta=meta, **fields)  # type: ignore[arg-type]


def judged(
    accuracy: Accuracy, problems: list[Problem], texts: list[list[str]], name: str = "mathvision"
) -> list[Judged]:
    groups = [
        [Response(p.uid, number, text) for number, text in enumerate(row)]
        for p, row in zip(problems, texts, strict=True)
    ]
    return judge(BENCHMARKS[name], problems, groups, accuracy)


def boxed(*answers: str) -> list[str]:
    return [rf"It is \boxed{{{answer}}}." if answer else "I do not know." for answer in answers]


def test_equal_answers_in_other_spellings_are_one_class(accuracy: Accuracy) -> None:
    problems = [problem("a", "3"), problem("b", "0.5"), problem("c", "B", choices=("3", "4", "5"))]
    responses = judged(
        accuracy,
        problems,
        [
            boxed(r"\frac12", "3", "", "1/2", "7", "0.5", "3.0", r"\frac{14}{2}"),
            boxed("1/2", "2", "", r"\frac{1}{2}", "2.0", "5", ".5", r"\frac{10}{2}"),
            boxed("A", "B", "", "(A)", "3", "C", "4", "(C)"),
        ],
    )
    classes = [one.answer_class for one in responses]
    assert classes[:8] == [1, 0, None, 1, 2, 1, 0, 2]
    assert classes[8:16] == [0, 1, None, 0, 1, 2, 0, 2]
    assert classes[16:] == [1, 0, None, 1, 1, 2, 0, 2]
    assert [(one.problem.uid, one.response.sample) for one in responses] == [
        (uid, sample) for uid in "abc" for sample in range(8)
    ]
    for one in responses:
        assert one.correct == (one.answer_class == 0)
        assert (one.answer is None) == (one.answer_class is None)


def test_official_rule_stands_beside_the_verdict(accuracy: Accuracy) -> None:
    """The authors' rule finds an answer without a box, ours does not."""
    problems = [problem("a", "12")]
    (response,) = judged(accuracy, problems, [["The sum is 12."]])
    assert (response.verdict, response.answer) == (Verdict.UNPARSABLE, None)
    assert response.official is not None
    assert (response.official.correct, response.official.answer) == (True, "12")


def test_stored_extraction_decides_the_official_ruling_only(accuracy: Accuracy) -> None:
    asked = replace(problem("1", "B", choices=("15 cm", "18 cm")), answer_type="choice")
    asked = replace(asked, meta=mathvista_meta())
    text = r"\boxed{A}"
    rows = [Response("1", 0, text), Response("1", 1, text, extraction="18 cm")]
    plain, extracted = judge(BENCHMARKS["mathvista"], [asked], [rows], accuracy)
    assert plain.official is None or not plain.official.correct
    assert extracted.official is not None
    assert extracted.official.correct
    assert plain.verdict is extracted.verdict is Verdict.WRONG


def mathvista_meta() -> dict[str, object]:
    row = {
        "pid": "1",
        "question": "Which?",
        "image": "0.png",
        "choices": ["15 cm", "18 cm"],
        "unit": None,
        "precision": None,
        "answer": "18 cm",
        "question_type": "multi_choice",
        "answer_type": "text",
        "metadata": {
            "category": "c",
            "task": "t",
            "context": "x",
            "grade": "g",
            "language": "english",
        },
    }
    return dict(BENCHMARKS["mathvista"].problem(row, ()).meta)


def test_refused_response_is_not_solved_whatever_the_gold(accuracy: Accuracy) -> None:
    """Also if an empty text would be the right answer."""
    asked = [problem("a", "12")]
    rows = [Response("a", 0, "", refused="too long"), Response("a", 1, r"\boxed{12}")]
    refused, answered = judge(BENCHMARKS["mathvision"], asked, [rows], accuracy)
    assert (refused.verdict, refused.rule) == (Verdict.UNPARSABLE, "not asked: too long")
    assert refused.answer_class is None
    assert answered.correct
