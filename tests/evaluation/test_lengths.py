"""Lengths of an evaluation by hand: problems, verdict and difficulty, thinking and answer, targets.

Broken on purpose, one at a time, each seen red:
    difficulty of single samples measured; easy above 2/3 alone -> difficulty
    unfinished thinking as answer; the tag in the answer; unknown thinking as none -> parts
    refused responses measured -> left out
    the whole text for the YapScore -> baseline
    words after the thinking for the published match -> targets
"""

import json
from pathlib import Path

import pytest

from vlm_rl.evaluation.benchmarks.benchmark import Judged, Response
from vlm_rl.evaluation.intervals import clustered
from vlm_rl.evaluation.length_report import write_lengths
from vlm_rl.evaluation.lengths import (
    LengthMeasures,
    in_parts,
    length_metrics,
    tokens_in_parts,
)
from vlm_rl.evaluation.summary import Evaluation
from vlm_rl.records import Problem, Verdict

MARKS = {"r": Verdict.CORRECT, "w": Verdict.WRONG, "u": Verdict.UNPARSABLE, "t": Verdict.TIMEOUT}


def asked(uid: str, marks: str, lengths, *, texts=None, thinking=None, cut=(), meta=None):
    """Return a sample for each mark, of these lengths in tokens and texts."""
    problem = Problem(uid, "What?", "7", meta=meta or {})
    return [
        Judged(
            problem,
            Response(
                uid,
                i,
                texts[i] if texts else f"the answer is {i}",
                length_tokens=lengths[i],
                truncated=i in cut,
                thinking_tokens=thinking and thinking[i],
            ),
            "7",
            MARKS[mark],
            "number",
            None,
            None,
        )
        for i, mark in enumerate(marks)
    ]


def measured(judged, targeted=()) -> LengthMeasures:
    return LengthMeasures.of(Evaluation("mine", "all", "x", "tiny", judged), targeted)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>so</think>7", ("so", "7")),
        ("so</think>7 </think> 8", ("so", "7 </think> 8")),
        ("<think>so it", ("so it", "")),
        ("7 <think>so", ("so", "7 ")),
        ("7", ("", "7")),
        ("", ("", "")),
    ],
)
def test_text_is_cut_at_the_first_end_of_thinking(text: str, parts: tuple[str, str]):
    assert in_parts(text) == parts


def test_tokens_are_told_apart_only_where_the_engine_says_so():
    cases = {
        ("<think>so</think>7", 20, 15): (15, 5),
        ("<think>so</think>7", 20, None): None,  # a server counts no thinking
        ("<think>so", 20, None): (20, 0),
        ("7", 20, None): (0, 20),
        ("7", None, None): None,
    }
    for (text, length, thinking), expected in cases.items():
        response = Response("a", 0, text, length, thinking_tokens=thinking)
        assert tokens_in_parts(response) == expected


def test_problems_and_cells_match_counts_by_hand():
    easy = asked("a", "rrw", [10, 20, 30], meta={"categories": {"source": "x"}})
    medium = asked("b", "rwt", [5, 5, 50], cut=(2,), meta={"categories": {"source": "y"}})
    hard = asked("c", "www", [None, 8, 8], meta={"categories": {"source": "x"}})
    measures = measured(easy + medium + hard)
    assert (measures.num_responses, measures.num_unknown, measures.by_share) == (9, 1, True)
    a, b, c = measures.problems
    assert (a.spread.mean, a.spread.std, a.right_frac) == (20, 10, pytest.approx(2 / 3))
    assert (b.right_frac, b.truncated) == (0.5, 1)  # of the two that were checked
    assert (c.spread.num_samples, c.right_frac) == (2, 0)
    cells = {(cell.source, cell.difficulty, cell.verdict): cell for cell in measures.cells}
    assert {key: cell.num_responses for key, cell in cells.items()} == {
        ("x", "easy", "correct"): 2,
        ("x", "easy", "wrong"): 1,
        ("x", "hard", "wrong"): 2,
        ("y", "medium", "correct"): 1,
        ("y", "medium", "timeout"): 1,
        ("y", "medium", "wrong"): 1,
    }
    assert cells["x", "easy", "correct"].mean == 15
    assert cells["y", "medium", "timeout"].num_truncated == 1
    assert sum(cell.num_responses for cell in measures.cells) == 8


def test_single_samples_have_the_difficulty_of_the_row():
    said = asked("a", "r", [3], meta={"categories": {"difficulty": "2", "level": "9"}})
    level = asked("b", "w", [3], meta={"categories": {"level": "9"}})
    measures = measured(said + level + asked("c", "w", [3]))
    assert not measures.by_share
    assert [cell.difficulty for cell in measures.cells] == ["-", "2", "9"]
    assert all(problem.spread.std is None for problem in measures.problems)
    assert "eval/mine/lengths/within_problem_std_tokens" not in length_metrics(measures)


LOOP = "and then we add one to the other number as before and look at it again so "


def test_where_the_length_goes_matches_a_loop():
    texts = ["<think>aa bb</think>7", "<think>" + LOOP * 8, "just 7", "x</think>y"]
    judged = asked("a", "rwru", [10, 40, 4, 9], texts=texts, thinking=[8, None, None, None])
    parts = measured(judged).parts
    whole = parts["all"]
    # the last one's thinking is not counted in tokens, but in characters
    assert (whole.num_known, whole.num_thinking, whole.num_unfinished) == (3, 3, 1)
    assert whole.thinking_tokens == pytest.approx((8 + 40 + 0) / 3)
    assert whole.answer_tokens == pytest.approx((2 + 0 + 4) / 3)
    thinking, answer = [5, len(LOOP * 8), 0, 1], [1, 0, 6, 1]
    assert whole.thinking_chars == pytest.approx(sum(thinking) / 4)
    shares = [t / (t + a) for t, a in zip(thinking, answer, strict=True)]
    assert whole.thinking_frac == pytest.approx(sum(shares) / 4)
    words = (LOOP * 8).split()
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    assert whole.repeated_in_thinking == pytest.approx((1 - len({*grams}) / len(grams)) / 4)
    assert whole.repeated_in_answer == 0
    assert whole.looping_frac == 0.25
    assert (parts["correct"].num_responses, parts["wrong"].num_responses) == (2, 2)
    assert parts["correct"].thinking_tokens == 4


def test_baselines_give_the_yap_score_of_the_answer_alone():
    fact = {"baseline": "Paris.", "categories": {"category": "facts"}}
    code = {"baseline": "ls", "categories": {"category": "code"}}
    judged = asked("a", "r", [9], texts=["<think>long long</think> It is Paris."], meta=fact)
    judged += asked("b", "rr", [9, 9], texts=["ls", "ls -l | sort"], meta=code)
    verbosity = measured(judged + asked("c", "r", [3])).verbosity
    assert verbosity.num_responses == 3
    assert verbosity.median == {"code": 5, "facts": 6}
    assert verbosity.index == 5.5
    assert measured(asked("c", "r", [3])).verbosity is None


def test_targets_count_all_words_and_those_after_the_thinking():
    def words(number: int) -> str:
        return " ".join(["word"] * number)

    near, far = {"target_words": 80}, {"target_words": 300}
    judged = asked("a", "rw", [1, 1], texts=[words(65), words(90)], meta=near)
    judged += asked("b", "r", [1], texts=[f"{words(200)}</think>{words(300)}"], meta=far)
    measures = measured(asked("a", "r", [3]), judged)
    eighty, three_hundred, level0, level1, whole = measures.targets
    names = ("80", "300", "level 0", "level 1", "all")
    assert tuple(one.name for one in measures.targets) == names
    assert (eighty.precise.mean, eighty.flexible.mean) == (0.5, 1)  # 65 is in (60, 100] alone
    assert eighty.precise_after is None
    # "think" is a word of the 501 in all; 300 after it
    assert (three_hundred.mean_words, three_hundred.flexible.mean) == (501, 0)
    assert (three_hundred.precise_after.mean, three_hundred.flexible_after.mean) == (1, 1)
    assert (level0.num_responses, level1.num_responses) == (2, 1)
    assert whole.precise == clustered([0, 1, 0], ["a", "a", "b"])
    assert measures.accuracy_with_target == clustered([0.5, 1], ["a", "b"])
    assert length_metrics(measures)["eval/mine/lengths/flexible_match_frac"] == pytest.approx(2 / 3)


def test_responses_that_were_not_asked_for_are_left_out():
    refused = [
        Judged(
            one.problem, Response("z", 0, "", refused="too long"), None, MARKS["u"], "", None, None
        )
        for one in asked("z", "u", [None])
    ]
    measures = measured(refused + asked("a", "r", [3]))
    assert (measures.num_responses, measures.num_unknown) == (1, 0)
    nothing = measured(refused)
    assert (nothing.num_responses, nothing.problems, nothing.parts) == (0, (), {})


def test_pages_are_written_for_everything_and_for_nothing(tmp_path: Path):
    judged = asked("a", "rw", [10, 99], texts=["<think>so</think>7", LOOP * 8], thinking=[8, None])
    judged += asked("b", "ww", [40, 40], texts=[LOOP * 8] * 2, cut=(0, 1), meta={"baseline": "7"})
    targeted = asked("a", "r", [3], texts=["one two"], meta={"target_words": 800})
    empty = asked("c", "u", [None])
    other = LengthMeasures.of(Evaluation("other", "all", "x", "tiny", empty))
    write_lengths([measured(judged, targeted), other], tmp_path)
    page = (tmp_path / "lengths.md").read_text()
    for part in (
        "2 were cut off at the budget and 3 loop; 1 problems",
        "YapIndex",
        "more than 800",
    ):
        assert part in page
    assert "The lengths of 1 are not known" in page
    assert (tmp_path / "mine" / "lengths.png").stat().st_size > 10_000
    assert not (tmp_path / "other" / "lengths.png").exists()
    rows = [json.loads(line) for line in (tmp_path / "mine/lengths.jsonl").read_text().splitlines()]
    assert [row["spread"]["longest"] for row in rows] == [99, 40]
    first, second = json.loads((tmp_path / "lengths.json").read_text())["benchmarks"]
    assert first["parts"]["all"]["num_unfinished"] == 0
    assert second["targets"] == []
