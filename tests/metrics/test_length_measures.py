"""Lengths of answers, each measure beside a plain loop over its formula, and published bands.

Broken on purpose, one at a time, each seen red:
    the deviation of a population; the median for the mean -> spread
    a band closed below and open above; the bands of 500 for 700 -> bands
    words split at blanks -> words as the authors count them
    scores below 0; the mean over all scores -> YapScore, YapIndex
    an n-gram counted too little; a rule of 2-grams -> repeated share, loops
"""

import math
import random

import pytest

from vlm_rl.metrics.length_spread import spread_of
from vlm_rl.metrics.repetition import loops, pieces, repeated_share
from vlm_rl.metrics.verbosity import yap_index, yap_score
from vlm_rl.metrics.word_targets import WORD_TARGETS, count_words, hits, word_request


def percentile(ordered: list[int], percent: float) -> float:
    """Interpolate between the two nearest ranks."""
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


@pytest.mark.parametrize("number", [2, 3, 10, 32])
def test_spread_matches_float64_loop(number: int):
    draw = random.Random(number)
    lengths = [draw.randint(0, 4000) for _ in range(number)]
    mean = 0.0
    for length in lengths:
        mean += length / number
    square = 0.0
    for length in lengths:
        square += (length - mean) ** 2
    ordered = sorted(lengths)
    spread = spread_of(lengths)
    assert spread.mean == pytest.approx(mean, rel=1e-12)
    assert spread.std == pytest.approx(math.sqrt(square / (number - 1)), rel=1e-12)
    for percent in (25, 50, 75, 99):
        assert getattr(spread, f"p{percent}") == pytest.approx(percentile(ordered, percent))
    assert (spread.shortest, spread.longest, spread.num_samples) == (
        ordered[0],
        ordered[-1],
        number,
    )
    assert spread.relative_std == pytest.approx(math.sqrt(square / (number - 1)) / mean)


def test_spread_of_one_answer_has_no_deviation():
    spread = spread_of([7])
    assert (spread.mean, spread.std, spread.p25, spread.p99) == (7, None, 7, 7)
    assert spread.relative_std is None
    assert spread_of([0, 0]).relative_std is None
    with pytest.raises(ValueError, match="at least one answer"):
        spread_of([])


PUBLISHED = {
    10: [(0, 20), (0, 20)],
    30: [(20, 40), (20, 40)],
    50: [(40, 60), (40, 60)],
    80: [(70, 90), (60, 100)],
    150: [(130, 170), (100, 200)],
    300: [(280, 320), (200, 400)],
    500: [(450, 550), (400, 600)],
    700: [(630, 770), (600, 800)],
}
"""Of `src/utils/config.py` of Ruler, precise and flexible; beyond 800 there is no upper end."""


@pytest.mark.parametrize("target", WORD_TARGETS)
def test_bands_are_the_published_ones_open_below_and_closed_above(target: int):
    for number in range(1200):
        expected = (number > 800,) * 2
        if target in PUBLISHED:
            expected = tuple(low < number <= high for low, high in PUBLISHED[target])
        assert hits(number, target) == expected, number


def test_levels_and_requests_are_the_published_ones():
    levels = {0: [10, 30, 50, 80], 1: [150, 300, 500], 2: [700, 800]}
    for level, targets in levels.items():
        assert [words for words, band in WORD_TARGETS.items() if band.level == level] == targets
    assert word_request(50) == "The response should have a word count of 50 words."
    assert word_request(800) == "The response should have a word count of more than 800 words."


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), ("don't stop", 3), (r"\boxed{12}", 2), ("a-b c_d", 3), ("é 字 - +", 2)],
)
def test_words_are_counted_as_the_authors_do(text: str, number: int):
    assert count_words(text) == number


def test_yap_score_and_index_by_hand():
    assert yap_score("Paris is the capital.", "Paris.") == 15
    assert yap_score("Rome", "Paris.") == 0
    assert yap_score("", "") == 0
    # medians 4 and 100: the mean over all five scores would be 42.6
    assert yap_index({"facts": [1, 4, 8], "code": [100, 100]}) == 52
    assert yap_index({"facts": [3]}) == 3
    for nothing in ({}, {"facts": []}):
        with pytest.raises(ValueError, match="at least one YapScore"):
            yap_index(nothing)


@pytest.mark.parametrize("ngram", [1, 2, 4])
def test_repeated_share_matches_loop(ngram: int):
    draw = random.Random(ngram)
    items = [draw.choice("abc") for _ in range(40)]
    seen, again = [], 0
    for start in range(len(items) - ngram + 1):
        gram = items[start : start + ngram]
        again += gram in seen
        seen.append(gram)
    assert repeated_share(items, ngram) == pytest.approx(again / len(seen))
    assert repeated_share(items[: ngram - 1], ngram) == 0


def test_loops_are_long_repetitions_only():
    assert pieces(r"so \boxed{12}, yes") == ["so", "\\", "boxed", "{", "12", "}", ",", "yes"]
    said = "we add the first bar to the second bar and then subtract the third one from it again. "
    assert loops(said * 10)
    assert not loops(said)
    assert not loops("")
    assert not loops("no no no no no no")  # shorter than one 20-gram
    fresh = " ".join(f"word{number}" for number in range(100))
    assert not loops(fresh)
    # 100 pieces and 20 of them once more: 120 - 20 + 1 n-grams of 20, one of which stands before
    assert not loops(f"{fresh} {' '.join(fresh.split()[:20])}")
