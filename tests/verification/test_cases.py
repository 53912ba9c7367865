"""Labelled cases beside this file: answers as models write them, and what a policy might try.

`cases.jsonl` has right answers by category, and wrong ones; `refused.jsonl` is what attacks on the
verifier tried: hedges, answers taken back, dropped names, near misses.

Broken on purpose, one at a time, each seen red here or beside: names that may differ, what is left
over dropped, units of another kind converted, any text a name, an absolute bound, a second
condition or the text before an arrow ignored, a letter beside another value accepted, boxes and
thinking that never end, a multiplier lost, a loose rounding, a root rounded, spaces between words
dropped.
"""

from pathlib import Path

import pytest

from tests.support.answer_bases import bases
from vlm_rl.records import Verdict
from vlm_rl.verification.pool import CheckerPool, read_answers
from vlm_rl.verify import read_cases

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def pool():
    with CheckerPool() as pool:
        yield pool


@pytest.mark.parametrize("name", ["cases.jsonl", "refused.jsonl"])
def test_each_case_has_the_verdict_of_its_label(name, pool):
    cases = read_cases(HERE / name)
    readings = read_answers([(case.gold, case.given) for case in cases], pool)
    pairs = zip(cases, readings, strict=True)
    assert [
        (case.uid, case.gold.answer, case.given, reading.rule)
        for case, reading in pairs
        if (reading.verdict is Verdict.CORRECT) != case.expected
    ] == []


def test_answers_of_other_problems_are_right_only_if_they_are_equal(pool):
    """Ask each gold about all others of its type, 20,446 pairs."""
    golds = [base.gold for base in bases(0)]
    asked = [
        (gold, other.answer)
        for gold in golds
        for other in golds
        if gold.answer_type == other.answer_type and gold.answer != other.answer
    ]
    checks = pool.check(asked)
    assert len(asked) > 10_000
    accepted = {
        (gold.answer, answer)
        for (gold, answer), check in zip(asked, checks, strict=True)
        if check.verdict is Verdict.CORRECT and not gold.choices
    }
    assert accepted
    assert [pair for pair in accepted if not any(set(pair) <= group for group in EQUAL)] == []


EQUAL = [
    {"0.5", r"\frac{1}{2}"},
    {r"2\frac{1}{3}", r"\dfrac{7}{3}"},
    {"60", "60 km/h"},
    {"60", r"60\,\mathrm{W}"},
    {r"0.05\,\mathrm{m}", r"5\text{ cm}", "5厘米"},
    {r"1.5\text{ h}", r"90\ \text{min}"},
    {r"10\ \mathrm{m/s}", r"36\ \mathrm{km/h}"},
    {r"120\text{ mm}", r"12\ \text{cm}"},
    {r"12\,\mathrm{m}^3", "12立方米"},
    {r"36^\circ", "36度"},
    {r"3\,\mathrm{h}", "3小时"},
]
"""The golds of different problems that are equal; a unit may be left out."""
