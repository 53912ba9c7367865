"""Texts, numbers of charts, JSON, choices and patterns, each against its rule stated again."""

import functools
import json
import random
from decimal import Decimal

import pytest
import torch

from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import ANLS, Choice, ExactMatch, JsonMatch, Regex, RelaxedNumber
from vlm_rl.rewards.text_match import edit_distance
from vlm_rl.verification.matching import FULL_MATCH

C, W, U = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSABLE


def problem(answer, **fields):
    return Problem("p0", "what?", answer, **fields)


def completion(text):
    return Completion(torch.zeros(3, dtype=torch.int64), torch.zeros(3), "stop", text)


def judged(term, asked, *texts):
    judgement = term.judge([asked], [[completion(text) for text in texts]])
    return list(zip(judgement.values[0].tolist(), judgement.verdicts[0], strict=True))


def ruling(term, gold, given, **fields):
    [one] = judged(term, problem(gold, **fields), rf"\boxed{{{given}}}")
    return one


def recursive_distance(a, b):
    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, replaced)

    return distance(len(a), len(b))


def test_edit_distance_is_that_of_the_recursion():
    rng = random.Random(0)
    for _ in range(300):
        a, b = ("".join(rng.choices("abä ", k=rng.randint(0, 9))) for _ in range(2))
        assert edit_distance(a, b) == recursive_distance(a, b)


def test_edit_distance_is_a_metric():
    rng = random.Random(1)
    for _ in range(200):
        a, b, c = ("".join(rng.choices("abc", k=rng.randint(0, 12))) for _ in range(3))
        assert edit_distance(a, a) == 0
        assert edit_distance(a, b) == edit_distance(b, a) >= abs(len(a) - len(b))
        assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.mark.parametrize(
    ("gold", "given", "expected"),
    [
        ("Coca Cola", "coca cola", (1.0, C)),
        ("Coca Cola", "coca  cola ", (1.0, C)),
        ("Coca Cola", "cocacola", (pytest.approx(1 - 1 / 9), C)),
        ("abcd", "abxy", (0.0, W)),  # half is wrong: 1 - NL only if NL < 0.5
        ("abcd", "abcx", (pytest.approx(0.75), C)),
        ("abcde", "abcxy", (pytest.approx(0.6), C)),
        ("Paris", r"\text{Paris}", (1.0, C)),
    ],
)
def test_anls_follows_the_paper(gold, given, expected):
    assert ruling(ANLS(), gold, given) == expected


def test_anls_takes_the_best_gold_and_its_threshold():
    assert ruling(ANLS(), "zzz", "abcd", alternatives=("abcx", "abcd")) == (1.0, C)
    assert ruling(ANLS(threshold=0.2), "abcd", "abcx") == (0.0, W)
    with pytest.raises(ValueError, match=r"ANLS\.threshold must be in \(0, 1\]"):
        ANLS(threshold=0)


@pytest.mark.parametrize("term", [ANLS(), ExactMatch(), RelaxedNumber(), JsonMatch("box")])
def test_no_answer_is_unparsable_and_a_hedge_is_wrong(term):
    texts = ["5", r"\boxed{5} or \boxed{6}", r"\boxed{5} so \boxed{5}"]
    assert judged(term, problem("5"), *texts) == [(0.0, U), (0.0, W), (1.0, C)]


def test_exact_match_is_to_the_letter():
    assert ruling(ExactMatch(), "New  York", "New York") == (1.0, C)
    assert ruling(ExactMatch(), "cafe\u0301", "caf\u00e9") == (1.0, C)
    for given in ("new york", "New York.", "NewYork"):
        assert ruling(ExactMatch(), "New York", given) == (0.0, W)


def test_long_texts_are_refused_on_either_side():
    assert ruling(ExactMatch(), "a", "a" * 1001) == (0.0, U)
    [line] = ANLS().unusable([problem("a" * 1001)])
    assert "at most 1000 characters" in line


def relaxed(target, prediction, most=0.05):
    """State the published rule again."""

    def number(text):
        try:
            return float(text[:-1]) / 100 if text[-1:] == "%" else float(text)
        except ValueError:
            return None

    a, b = number(prediction), number(target)
    if a is None or b is None or b == 0:
        return prediction.lower() == target.lower()
    return abs(a - b) / abs(b) <= most


def test_relaxed_number_is_the_published_rule():
    texts = ["0", "0.0", "5%", "0.05", "100", "104", "106", "95", "94", "-100", "Yes", "yes"]
    texts += ["1,000", "1000", "nan", "-5%", "5", "4.8%", "inf"]
    for gold in texts:
        for given in texts:
            expected = (1.0, C) if relaxed(gold, given) else (0.0, W)
            assert ruling(RelaxedNumber(), gold, given) == expected, (gold, given)


def test_relaxed_number_is_bounded_by_its_tolerance():
    assert ruling(RelaxedNumber(), "100", "105") == (1.0, C)
    assert ruling(RelaxedNumber(), "100", "105.01") == (0.0, W)
    assert ruling(RelaxedNumber(tolerance=0.0), "100", "100.0") == (1.0, C)
    with pytest.raises(ValueError, match=r"RelaxedNumber\.tolerance"):
        RelaxedNumber(tolerance=1)


def random_json(rng, depth=3):
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [random_json(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    if kind == 6:
        return {rng.choice("abcdef"): random_json(rng, depth - 1) for _ in range(3)}
    return rng.choice([rng.randint(-5, 5), rng.random(), "5", "x y", "", True, False, None])


def reordered(rng, value):
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {key: reordered(rng, value[key]) for key in keys}
    return [reordered(rng, one) for one in value] if isinstance(value, list) else value


def num_leaves(value):
    inside = value.values() if isinstance(value, dict) else value
    return sum(map(num_leaves, inside)) if isinstance(value, dict | list) and value else 1


def with_one_changed(value, index):
    """Replace a leaf by another text; return the value and how many leaves are left to count."""
    if not isinstance(value, dict | list) or not value:
        return ("changed" if index == 0 else value), index - 1
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for key, inside in items:
        found[key], index = with_one_changed(inside, index)
    return (found if isinstance(value, dict) else list(found.values())), index


def test_json_is_order_free_and_one_wrong_leaf_counts_as_one():
    rng, term = random.Random(2), JsonMatch()
    for _ in range(150):
        gold = {"a": random_json(rng), "b": random_json(rng)}
        same = json.dumps(reordered(rng, gold), indent=rng.choice([None, 2]))
        number = num_leaves(gold)
        other, _ = with_one_changed(gold, rng.randrange(number))
        fenced = f"```json\n{same}\n```"
        values = judged(term, problem(json.dumps(gold)), same, fenced, json.dumps(other))
        assert values[:2] == [(1.0, C)] * 2
        assert values[2] == (pytest.approx((number - 1) / number), W)


@pytest.mark.parametrize(
    ("gold", "given", "value"),
    [
        ({"a": 1}, '{"a": 1.0}', 1),
        ({"a": 0.1}, '{"a": 1e-1}', 1),
        ({"a": 1}, '{"a": "1"}', 0),
        ({"a": 1}, '{"a": true}', 0),
        ({"a": 0}, '{"a": false}', 0),
        ({"a": "X"}, '{"a": "x"}', 0),
        ([1, 2], "[2, 1]", 0),
        ([1, 2], "[1, 2, 3]", 2 / 3),
        ({"a": 1, "b": 2}, '{"a": 1}', 1 / 2),
        ({"a": []}, '{"a": {}}', 0),
        ({"a": []}, 'It is {"a": []}.', 1),
        ({"a": 1}, '{"a": 1e999999}', 0),
    ],
)
def test_json_compares_leaves_by_type_and_value(gold, given, value):
    [(found, verdict)] = judged(JsonMatch(), problem(json.dumps(gold)), given)
    assert found == pytest.approx(value)
    assert verdict is (C if value == 1 else W)


@pytest.mark.parametrize(
    "given",
    [
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": 1',
        "[" * 9000,
        "a",
        "",
        "{'a': 1}",
        "[1,]",
        "{}" * 40_000,
    ],
)
def test_what_is_no_json_is_unparsable(given):
    assert judged(JsonMatch(), problem('{"a": 1}'), given) == [(0.0, U)]


def test_json_hedge_is_wrong_and_the_same_twice_is_not():
    values = judged(JsonMatch(), problem('{"a": 1}'), '{"a": 1} or {"a": 2}', '{"a": 1}={"a": 1.0}')
    assert values == [(0.0, W), (1.0, C)]


def test_cell_needs_row_column_and_value():
    cell = {"row": 3, "column": "Sales", "value": 42}
    asked = problem(json.dumps(cell), answer_type="cell")
    given = '{"value": 42.0, "column": "Sales", "row": 3}'
    assert judged(JsonMatch(), asked, given) == [(1.0, C)]
    assert JsonMatch().unusable([asked]) == []
    [line] = JsonMatch().unusable([problem('{"row": 3}', answer_type="cell")])
    assert "row, column and value" in line
    assert len(JsonMatch().unusable([problem("{"), problem('{"a": 1} {"a": 2}')])) == 2


@pytest.fixture(scope="module")
def choice():
    term = Choice()
    yield term
    term.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("B", (1.0, C)), ("(B) 14", (1.0, C)), ("14", (1.0, C)), ("A", (0.0, W)), ("16", (0.0, W))],
)
def test_choice_is_a_letter_or_what_its_option_says(choice, given, expected):
    assert ruling(choice, "B", given, choices=("12", "14", "16"), answer_type="number") == expected


def test_choice_names_golds_that_are_none(choice):
    [line] = choice.unusable([problem("E", choices=("12", "14")), problem("B")])
    assert "Choice cannot use its answer 'E'" in line


@pytest.fixture(scope="module")
def regex():
    term = Regex(timeout_s=0.3)
    yield term
    term.close()


def test_pattern_of_the_gold_matches_the_whole_answer(regex):
    texts = [rf"\boxed{{{given}}}" for given in ("2024-05", "2024-5", "in 2024-05", "2024-05 ")]
    expected = [(1.0, C), (0.0, W), (0.0, W), (1.0, C)]
    assert judged(regex, problem(r"\d{4}-\d\d", answer_type="pattern"), *texts) == expected


def test_catastrophic_pattern_ends_in_timeout_and_the_next_is_checked(regex):
    slow = rf"\boxed{{{'a' * 60}!}}"
    values = judged(regex, problem("(a+)+"), slow, r"\boxed{aaa}")
    assert values == [(0.0, Verdict.TIMEOUT), (1.0, C)]


def test_policy_cannot_answer_with_a_pattern(regex):
    """Neither as the answer nor as one that would make another the same."""
    texts = [r"\boxed{.*} \boxed{cat}", r"\boxed{c.t}", r"\boxed{cat} \boxed{cat}"]
    assert judged(regex, problem("cat"), *texts) == [(0.0, W), (0.0, W), (1.0, C)]


def test_one_pattern_for_all_and_patterns_that_are_none(regex):
    term = Regex(pattern=r"[A-D]")
    assert ruling(term, "anything", "C") == (1.0, C)
    term.close()
    with pytest.raises(ValueError, match=r"Regex\.pattern='\(' is not a pattern"):
        Regex(pattern="(")
    [line] = regex.unusable([problem("(")])
    assert "not a pattern" in line


def test_no_row_can_name_the_type_of_patterns(choice):
    """The verifier's own golds stay values: an accuracy term cannot be asked to run a pattern."""
    from vlm_rl.data.problems import _VALUES

    assert FULL_MATCH not in _VALUES["answer_type"]


def test_numbers_are_exact():
    gold = json.dumps({"a": 0})
    exact = f'{{"a": {Decimal(1).scaleb(-400)}}}'
    assert judged(JsonMatch(), problem(gold), exact) == [(0.0, W)]
