"""Length terms on numbers that are worked out by hand, what they refuse, and rows they cannot use.

Mutations tried, each seen red: a strict target of LASER; a wrong answer that gains by the
group of Kimi; ConciseR in groups with one right answer; a cosine that turns back beyond the budget;
the tag of PEAR in the thinking; a row without a target scored as 0; the limit of DA-DLER over all
completions; a wrong form paid for its length; L1Max not clipped below.
"""

import json
import math

import pytest
import torch

from tests.support.places import SHARED
from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import (
    LASER,
    PEAR,
    Accuracy,
    AccuracyLimit,
    ConciseR,
    CosineLength,
    FormatLength,
    KimiLength,
    L1Exact,
    L1Max,
    LengthRange,
    Reward,
    RewardTerm,
    Unfinished,
)

RIGHT, WRONG, LOST = Verdict.CORRECT, Verdict.WRONG, Verdict.TIMEOUT


def completion(length: int, *, cut: bool = False, text: str = "5") -> Completion:
    ids = torch.zeros(length, dtype=torch.int64)
    return Completion(ids, torch.zeros(length), "length" if cut else "stop", text)


def valued(
    term: RewardTerm, lengths: list[int], verdicts: list[Verdict], meta: dict | None = None
) -> list[float]:
    asked = Problem("a", "?", "5", meta=meta or {})
    return term.judged([asked], [[completion(n) for n in lengths]], [verdicts])[0].tolist()


def test_laser_golden():
    lengths, verdicts = (
        [4096, 4097, 4096, 9000, 1],
        [RIGHT, RIGHT, WRONG, WRONG, Verdict.UNPARSABLE],
    )
    for mode, within, beyond in (
        ("reward", 0.5, 0.0),
        ("penalty", 0.0, -0.5),
        ("hybrid", 0.5, -0.5),
    ):
        term = LASER(target=4096, mode=mode)
        assert valued(term, lengths, verdicts) == [within, beyond, -0.5, -0.5, -0.5]


def test_cosine_golden():
    """At 0, a half and the whole of the budget the cosine is 1, 0 and -1; at a third 1/2."""
    lengths = [0, 1000, 1500, 3000, 5000]
    swift = CosineLength(max_completion_tokens=3000)
    assert valued(swift, lengths, [RIGHT] * 5) == pytest.approx([1, 0.875, 0.75, 0.5, 0.5])
    assert valued(swift, lengths, [WRONG] * 5) == pytest.approx([-0.5, -0.375, -0.25, 0, 0])
    open_r1 = CosineLength(3000, wrong_short=-1.0, wrong_long=-0.5)
    assert valued(open_r1, lengths, [WRONG] * 5) == pytest.approx([-1, -0.875, -0.75, -0.5, -0.5])


def test_kimi_golden():
    """Lengths 100, 200, 300, 500 are 0, 1/4, 1/2 and 1 of the way; 9000 was not checked."""
    lengths, verdicts = [100, 200, 300, 500, 9000], [RIGHT, RIGHT, RIGHT, RIGHT, LOST]
    assert valued(KimiLength(), lengths, verdicts)[:4] == pytest.approx([0.5, 0.25, 0, -0.5])
    verdicts = [WRONG, RIGHT, WRONG, WRONG, LOST]
    assert valued(KimiLength(), lengths, verdicts)[:4] == pytest.approx([0, 0.25, 0, -0.5])


def test_l1_golden():
    """Alpha 3e-4: 1000 tokens cost 0.3; the factor is 0 from 0.5 / 3e-4 = 1667 tokens beyond."""
    meta = {"target_length": 2000}
    lengths, verdicts = [1000, 2000, 3000, 3667, 0], [RIGHT, RIGHT, WRONG, RIGHT, RIGHT]
    exact = valued(L1Exact(), lengths, verdicts, meta)
    assert exact == pytest.approx([-0.3, 0, -0.3, -0.5001, -0.6], abs=1e-12)
    most = valued(L1Max(), lengths, verdicts, meta)
    assert most == pytest.approx([0.8, 0.5, 0.2, 0, 1], abs=1e-12)


def test_format_length_matches_the_worked_numbers():
    """X = 0, 1/4, 1/2, 3/4, 1 is worth 0, 3/4, 1, 1/2, -1; the form adds 1 or caps at 0."""
    numbers = {"0.0": 0.0, "0.25": 0.75, "0.5": 1.0, "0.75": 0.5, "1.0": -1.0}
    path = SHARED / "reference" / "worked_examples.json"
    if path.exists():
        assert json.loads(path.read_text())["format-length p=.5"] == numbers
    term, asked = FormatLength(max_completion_tokens=400), Problem("a", "?", "5")
    for x, worked in numbers.items():
        length = round(400 * float(x))
        group = [completion(length, text=r"\boxed{7}"), completion(length, text="7")]
        [[formed, other]] = term([asked], [group]).tolist()
        assert formed == pytest.approx(1 + worked, abs=1e-6)
        assert other == pytest.approx(min(0.0, worked), abs=1e-6)


def test_length_range_golden():
    meta = {"length_range": [200, 400]}
    lengths = [0, 50, 200, 400, 700, 1000, 1200]
    expected = [0, 0.25, 1, 1, 0.5, 0, 0]
    term = LengthRange(max_tokens=1000)
    assert valued(term, lengths, [WRONG] * 7, meta) == pytest.approx(expected, abs=1e-12)
    assert valued(term, [0, 5, 6], [WRONG] * 3, {"length_range": [0, 5]})[:2] == [1, 1]


def test_dler_golden():
    group = [completion(9), completion(9, cut=True)]
    assert Unfinished()([Problem("a", "?", "5")], [group]).tolist() == [[1.0, 0.1]]
    term = AccuracyLimit(limit=4000, easy_limit=2000)
    lengths = [2000, 2001, 4000, 4001]
    assert valued(term, lengths, [RIGHT, RIGHT, WRONG, WRONG]) == [1, 0, 0, 0]
    assert valued(term, lengths, [RIGHT, WRONG, WRONG, WRONG]) == [1, 1, 1, 0]
    # of three that were checked one is right: below a half; of two, it is a half
    assert valued(term, lengths, [RIGHT, WRONG, WRONG, LOST]) == [1, 1, 1, 0]
    assert valued(term, lengths, [RIGHT, WRONG, LOST, LOST]) == [1, 0, 0, 0]


def test_conciser_golden():
    lengths, term = [0, 250, 1000, 1500], ConciseR(max_completion_tokens=1000)
    assert valued(term, lengths, [RIGHT] * 4) == [1, 0.75, 0, 0]
    assert valued(term, lengths, [RIGHT, RIGHT, RIGHT, LOST])[:3] == [1, 0.75, 0]
    assert valued(term, lengths, [RIGHT, RIGHT, RIGHT, WRONG]) == [0, 0, 0, 0]


def thought(entropies: list[float], thinking_tokens: int | None) -> Completion:
    count = len(entropies)
    return Completion(
        torch.zeros(count, dtype=torch.int64),
        torch.zeros(count),
        "stop",
        "",
        entropies=torch.tensor(entropies),
        thinking_tokens=thinking_tokens,
    )


def test_pear_golden():
    """Mean entropy 0.6 of the thinking and 0.4 of the answer, tag included: 1 becomes 0.8."""
    asked = [Problem("a", "?", "5")]
    one = thought([0.5, 0.7, 0.2, 0.6], 3)  # two tokens of thinking, the tag, one of the answer
    unsure_answer = thought([0.1, 0.1, 0.9], 3)
    endless, empty = thought([0.5, 0.7], None), thought([], None)
    group = [one, unsure_answer, endless, empty, one]
    values = PEAR().judged(asked, [group], [[RIGHT, RIGHT, RIGHT, RIGHT, WRONG]])[0].tolist()
    assert values == pytest.approx([-0.2, 0, -0.6, 0, 0], abs=1e-6)
    half = PEAR(alpha=0.5).judged(asked, [[one]], [[RIGHT]]).item()
    assert half == pytest.approx(-0.4, abs=1e-6)
    assert PEAR().reads_policy


BAD_TARGETS = [{}, {"target_length": "512"}, {"target_length": 0}, {"target_length": True}]
BAD_RANGES = [{}, {"length_range": [5]}, {"length_range": [9, 5]}, {"length_range": [5, 100]}]


@pytest.mark.parametrize(
    ("term", "meta"),
    [(term, meta) for term in (L1Exact(), L1Max()) for meta in BAD_TARGETS]
    + [(LengthRange(max_tokens=100), meta) for meta in BAD_RANGES],
)
def test_row_without_its_value_is_named_and_not_scored(term, meta):
    bad, good = Problem("b", "?", "5", meta=meta), {"target_length": 9, "length_range": [1, 9]}
    [line] = term.unusable([bad, Problem("g", "?", "5", meta=good)])
    assert line.startswith(f"problem 'b': {type(term).__name__} reads meta[{term.key!r}], which ")
    assert f"give the row a column {term.key}" in line
    assert all(map(math.isnan, valued(term, [1, 2], [RIGHT, RIGHT], meta)))
    place = {"factors": {"own": term}} if term.shrinks else {"length": term}
    groups = [[completion(3), completion(4)]]
    with Reward({"accuracy": Accuracy()}, max_unscored_frac=1.0, **place) as reward:
        assert not reward([bad], groups).scored.any()
        assert reward.unusable([bad]) == [line]
    with (
        Reward({"accuracy": Accuracy()}, max_unscored_frac=0.0, **place) as strict,
        pytest.raises(PartError, match=rf"could not be scored.*meta\['{term.key}'\]"),
    ):
        strict([bad], groups)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: LASER(target=0), "LASER.target must be at least 1 token; LASER has 4096, got 0"),
        (lambda: LASER(9, bonus=0.0), "LASER.bonus must be above 0"),
        (lambda: LASER(9, wrong=0.5), "LASER.wrong must be at most 0"),
        (lambda: LASER(9, mode="both"), "LASER.mode must be reward, penalty or hybrid, got 'both'"),
        (lambda: CosineLength(0), "CosineLength.max_completion_tokens must be at least 1 token"),
        (lambda: CosineLength(9, right_long=math.nan), "CosineLength.right_long must be finite"),
        (lambda: CosineLength(9, wrong_long=0.5), "must be below 0.5, the least that a right"),
        (lambda: ConciseR(0), "ConciseR.max_completion_tokens must be at least 1 token, got 0"),
        (lambda: L1Exact(alpha=0.0), "L1Exact.alpha must be above 0; L1 has 3e-4 for each token"),
        (lambda: L1Max(delta=1.5), "L1Max.delta must be in (0, 1]; L1 has 0.5, got 1.5"),
        (lambda: L1Max(key=""), "L1Max.key must name a key of meta, got ''"),
        (lambda: FormatLength(9, peak=1.0), "FormatLength.peak must be in (0, 1)"),
        (lambda: LengthRange(0), "LengthRange.max_tokens must be at least 1 token, got 0"),
        (lambda: Unfinished(kept=-0.1), "Unfinished.kept must be in [0, 1]; DLER keeps 0.1"),
        (lambda: AccuracyLimit(9, 10), "AccuracyLimit.easy_limit must be in 1..limit (9)"),
        (lambda: AccuracyLimit(9, 9, easy_from=0), "AccuracyLimit.easy_from must be in (0, 1]"),
        (lambda: PEAR(alpha=-1.0), "PEAR.alpha must be at least 0; PEAR has 1, got -1.0"),
        (lambda: KimiLength(weight=-1.0), "KimiLength.weight must be finite and not negative"),
    ],
)
def test_arguments_are_refused_in_one_line(build, line):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole line is compared)
        build()
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
