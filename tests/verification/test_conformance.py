"""Labelled cases and real golds that lie beside the project; each test skips where they are absent.

Every clear case must be right. Of the arguable ones a floor is held: what is missing are words
beside a value (`60\\text{ increase}`), degrees for radians, and the like, which stay unread.
"""

import json

import pytest

from tests.support.places import SHARED
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.records import Verdict
from vlm_rl.rewards.accuracy import NO_ANSWER, gold_of
from vlm_rl.verification.pool import CheckerPool, read_answers
from vlm_rl.verify import read_cases

FLOORS = {"verify_cases.jsonl": (141, 35), "verify_cases_2.jsonl": (560, 60)}
"""Cases of level must, all of which are right, and how many of level should are, at least."""
BENCHMARK_GOLDS = {
    "mathvision": "mathvision/test.jsonl",
    "mathvista": "mathvista/testmini.json",
    "wemath": "wemath/testmini.json",
    "dynamath": "dynamath",
}


@pytest.fixture(scope="module")
def pool():
    with CheckerPool() as pool:
        yield pool


def path_of(name, folder):
    path = SHARED / folder / name
    if not path.exists():
        pytest.skip(f"{name} is absent, set VLM_RL_SHARED")
    return path


@pytest.mark.parametrize("name", FLOORS)
def test_clear_cases_are_right_and_arguable_ones_above_the_floor(name, pool):
    path = path_of(name, "reference")
    levels = [json.loads(line)["level"] for line in path.read_text().splitlines()]
    cases = read_cases(path)
    readings = read_answers([(case.gold, case.given) for case in cases], pool)
    right = {"must": 0, "should": 0}
    differing = []
    for level, case, reading in zip(levels, cases, readings, strict=True):
        agrees = (reading.verdict is Verdict.CORRECT) == case.expected
        right[level] += agrees
        if not agrees and (level == "must" or reading.verdict is Verdict.CORRECT):
            differing.append((case.uid, case.gold.answer, case.given, reading.rule))
    print(name, right)
    must, floor = FLOORS[name]
    assert differing == []
    assert right["must"] == must
    assert right["should"] >= floor


@pytest.mark.parametrize("name", BENCHMARK_GOLDS)
def test_every_gold_of_a_benchmark_reads_and_is_right_for_itself(name, pool):
    source = path_of(BENCHMARK_GOLDS[name], "data")
    problems = load(BENCHMARKS[name], str(source), images=False)
    golds = list({gold_of(problem) for problem in problems})
    assert len(golds) > 200
    read = pool.check([(gold, NO_ANSWER) for gold in golds])
    itself = pool.check([(gold, gold.answer) for gold in golds])
    assert [g for g, check in zip(golds, read, strict=True) if check.verdict == "error"] == []
    assert [g for g, check in zip(golds, itself, strict=True) if check.verdict != "correct"] == []
