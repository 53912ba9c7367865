"""Measures of benchmarks as a whole against tables made by hand and published verdicts.

Broken on purpose, one at a time, each seen red:
    wemath.py: chains with missing rows kept
    wemath.py: strict and loose swapped
    wemath.py: insufficient knowledge only without any step
    wemath.py: rote memorisation over all chains
    samples.py: unchecked answers counted as wrong
    samples.py: samples not kept apart
    dynamath.py: worst case over fewer variants
    dynamath.py: any variant for the worst case
"""

import csv
from dataclasses import replace

import pytest

from tests.support.places import SHARED
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import Judged, Response, Ruling
from vlm_rl.records import Problem, Verdict

DATA = SHARED / "data"


def judge(problem, correct, sample=0, official=None, verdict=None):
    verdict = verdict or (Verdict.CORRECT if correct else Verdict.WRONG)
    response = Response(problem.uid, sample, "")
    ruling = None if official is None else Ruling(official, None, "by hand")
    return Judged(problem, response, None, verdict, "by hand", None, ruling)


def chain(name, steps, last):
    rows = [*enumerate(steps, 1), ("multi", last)]
    problem = Problem(uid="x", question="q", answer="A", answer_type="choice")
    for place, correct in rows:
        meta = {
            "cluster": name,
            "place": str(place),
            "steps": len(steps),
            "categories": {"steps": str(len(steps)) if place == "multi" else "1"},
        }
        yield replace(problem, uid=f"{name}/{place}", meta=meta), bool(correct)


# 20 rows, every branch: 2 of 6 chains insufficient knowledge, 1 inadequate generalisation
TABLE = [
    *chain("complete mastery", (1, 1), 1),
    *chain("inadequate generalisation", (1, 1), 0),
    *chain("insufficient knowledge", (1, 0), 0),
    *chain("rote memorisation, strict and loose", (0, 0), 1),
    *chain("rote memorisation strict, mastery loose", (1, 0, 1), 1),
    *chain("insufficient knowledge, no step", (0, 0, 0), 0),
]
MEASURES = {
    "S1": 7 / 14,
    "S2": 2 / 4,
    "S3": 1 / 2,
    "whole_chains": 1.0,
    "insufficient_knowledge": 2 / 6,
    "inadequate_generalization": 1 / 6,
    "complete_mastery_strict": 1 / 6,
    "complete_mastery_loose": 2 / 6,
    "rote_memorization_strict": 2 / 3,
    "rote_memorization_loose": 1 / 3,
    # the authors': (6 - 0.5 * 1 - 2 - 2) / 6 and (6 - 0.5 * 1 - 1 - 2) / 6
    "score_strict": 1.5 / 6,
    "score_loose": 2.5 / 6,
}


def test_wemath_measures_equal_the_formulas_on_a_table_by_hand():
    assert len(TABLE) == 20
    judged = [judge(*row) for row in TABLE]
    assert BENCHMARKS["wemath"].measures(judged) == pytest.approx(MEASURES)


def test_wemath_measures_average_over_samples_and_stand_by_both_rulings():
    first = [judge(problem, right, 0, official=False) for problem, right in TABLE]
    second = [judge(problem, False, 1, official=False) for problem, _ in TABLE]
    measures = BENCHMARKS["wemath"].measures(first + second)
    assert measures["score_strict"] == pytest.approx(MEASURES["score_strict"] / 2)
    assert measures["insufficient_knowledge"] == pytest.approx((2 / 6 + 1) / 2)
    assert measures["official/insufficient_knowledge"] == 1
    assert measures["official/rote_memorization_strict"] == 0  # 0/0


def test_wemath_chain_with_a_row_missing_or_unchecked_is_left_out_and_counted():
    judged = [judge(*row) for row in TABLE]
    measures = BENCHMARKS["wemath"].measures(judged[1:])  # without a step of complete mastery
    assert measures["whole_chains"] == pytest.approx(5 / 6)
    assert measures["complete_mastery_strict"] == 0
    assert measures["insufficient_knowledge"] == pytest.approx(2 / 5)
    judged[0] = judge(TABLE[0][0], None, verdict=Verdict.TIMEOUT)
    assert BENCHMARKS["wemath"].measures(judged) == pytest.approx(measures)


def seed_question(seed, variant):
    meta = {"cluster": seed, "variant": variant, "categories": {}}
    return Problem(uid=f"{seed}-{variant}", question="q", answer="1", meta=meta)


@pytest.mark.parametrize(
    ("name", "average", "worst"),
    [("GPT4o", 3173, 174), ("Qwen2-7B", 2111, 69), ("llava1.5-7B", 821, 9)],
)
def test_dynamath_measures_follow_from_the_published_verdicts(name, average, worst):
    file = DATA / "dynamath" / f"{name}-result.csv"
    if not file.exists():
        pytest.skip(f"needs the published verdicts in {file}")
    with file.open(newline="") as lines:
        rows = [row for row in csv.reader(lines) if row[0][:1] == "Q" and row[0][1:].isdigit()]
    assert len(rows) == 501
    judged = [
        judge(seed_question(row[0], variant), row[variant] == "correct")
        for row in rows
        for variant in range(1, 11)
    ]
    measures = BENCHMARKS["dynamath"].measures(judged)
    # the file's own count of right variants per question
    counts = [int(row[11]) for row in rows]
    assert (sum(counts), counts.count(10)) == (average, worst)
    assert measures["average"] == pytest.approx(average / 5010, abs=1e-12)
    assert measures["worst_case"] == pytest.approx(worst / 501, abs=1e-12)
    same = counts.count(10) + counts.count(0)
    assert measures["consistency"] == pytest.approx(same / 501, abs=1e-12)


def test_dynamath_worst_case_needs_all_variants():
    whole = [judge(seed_question("1", n), True) for n in range(10)]
    part = [judge(seed_question("2", n), False) for n in range(9)]
    measures = BENCHMARKS["dynamath"].measures(whole + part)
    assert measures["worst_case"] == 1
    assert measures["whole_questions"] == 0.5
    assert measures["average"] == pytest.approx(10 / 19)
    assert "worst_case" not in BENCHMARKS["dynamath"].measures(part)
