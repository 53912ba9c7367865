"""Labelled cases and real golds that lie beside the project; each test skips where they are absent.

Every clear case must be right. Of the arguable ones a floor is held: what is missing are words
beside a value (`60\\text{ increase}`), degrees for radians, and the like, which stay unread.
"""

import json

import pytest

from tests.support.places import SHARED
from vlm_rl.records import Verdict
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import infer_type
from vlm_rl.verification.pool import CheckerPool, read_answers
from vlm_rl.verify import read_cases

FLOORS = {"verify_cases.jsonl": (141, 36), "verify_cases_2.jsonl": (560, 60)}
"""Cases of level must, all of which are right, and how many of level should are, at least."""
BENCHMARK_GOLDS = {
    "mathvision/test.jsonl": ("answer", "options"),
    "wemath/testmini.json": ("answer", None),
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
    path, (field, options) = path_of(name, "data"), BENCHMARK_GOLDS[name]
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else map(json.loads, text.splitlines())
    golds = set()
    for row in rows:
        choices = tuple(row[options]) if options else ()
        golds.add(Gold(row[field], infer_type(row[field], bool(choices)), choices))
    asked = [(gold, gold.answer) for gold in golds] + [(gold, "?") for gold in golds]
    checks = pool.check(asked)
    unreadable = [q for q, check in zip(asked, checks, strict=True) if check.verdict == "error"]
    assert unreadable == []
    assert all(check.verdict is Verdict.CORRECT for check in checks[: len(golds)])
