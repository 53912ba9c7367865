"""The relaxed match of ChartQA, against its rule in fractions."""

import random
from fractions import Fraction

import pytest

from vlm_rl.verification.relaxed import is_relaxed_match


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("105", "100", True),
        ("105.01", "100", False),
        ("95", "100", True),
        ("94.99", "100", False),
        ("1.05", "1", True),  # 0.05000000000000004 away in binary fractions
        ("-97", "-100", True),
        ("97", "-100", False),
        ("12%", "0.12", True),
        ("45%", "45", False),
        ("1,234", "1234", True),
        ("1,23", "123", False),
        ("0", "0.0", True),
        ("0.01", "0", False),
        ("Yes", "yes ", True),
        ("no", "yes", False),
        ("nan", "NaN", True),
        ("inf", "100", False),
        ("", "", True),
        ("", "0", False),
        (".", "0", False),
        ("1e2", "100", True),
        ("100 dollars", "100", False),
        ("2010", "2011", True),  # years are numbers to this rule
    ],
)
def test_relaxed_match_worked_cases(answer: str, gold: str, right: bool) -> None:
    assert is_relaxed_match(answer, gold) is right


def test_relaxed_match_equals_the_rule_in_fractions() -> None:
    draw = random.Random(0)
    outcomes = []
    for _ in range(500):
        gold = Fraction(draw.randint(-2000, 2000), 100)
        given = round(gold * 100 * draw.choice((1, Fraction(21, 20), Fraction(19, 20)))) + (
            draw.randint(-2, 2)
        )
        answer = Fraction(given, 100)
        expected = abs(answer - gold) * 20 <= abs(gold)
        outcomes.append(expected)
        texts = f"{given / 100:.2f}", f"{float(gold):.2f}"
        assert is_relaxed_match(*texts) is expected, texts
        assert is_relaxed_match(f"{given}%", texts[1]) is expected, texts
    assert 100 < sum(outcomes) < 400
