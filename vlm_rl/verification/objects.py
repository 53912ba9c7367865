"""Matchers of mathematical objects and collections: expression, list, tuple, set, interval."""

import re

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.exact_numbers import claimed_values, close, compare_bases, plain_number
from vlm_rl.verification.forms import (
    OR,
    SEPARATOR,
    NamedValue,
    RealInterval,
    figure,
    has_inequality,
    infinity_sign,
    is_phrase,
    named_values,
    union_of_intervals,
)
from vlm_rl.verification.gold import Finding, Gold, reading_gold
from vlm_rl.verification.notation import enclosed, normalise, open_text, plain_text, split_top
from vlm_rl.verification.quantities import match_number, without_approximations
from vlm_rl.verification.units import split_unit

_COMMA = re.compile(r"[,;]")
_COLON = re.compile(r"\d\s*:\s*\d")
_SET_ALGEBRA = re.compile(r"\\(?:cup|cap|setminus|mid|emptyset|varnothing|infty|ldots|dots)|\|")


def match_expression(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match the same mathematical object, or the same number if the problem has a tolerance.

    Of a chain `a = b` every claim must hold, unless the gold is an equation itself. A gold of
    named values, `x=1, y=2`, is met by the same names in any order, and by the values alone in the
    order of the gold: `(1,2)`. The roots `x_1=1, x_2=2` are met in any order.
    """
    if gold.tolerance:
        return match_number(gold, prediction, algebra)
    named = named_values(gold.answer)
    if named is not None:
        return _match_named_values(named, prediction, algebra)
    with reading_gold():
        expected = without_approximations(gold.answer, algebra)
    same = _same_object(expected, without_approximations(prediction, algebra), algebra)
    return Finding(same, "the same object" if same else "another object")


def match_sequence(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match element by element, in order; brackets may be left out but must not differ."""
    gold_bracket, expected = _elements(gold.answer)
    bracket, given = _elements(prediction)
    if bracket != gold_bracket and "" not in (bracket, gold_bracket):
        return Finding(False, "other brackets")
    if len(expected) != len(given):
        return Finding(False, "another number of elements")
    same = _same_elements(expected, given, algebra)
    return Finding(same, "element by element" if same else "another element")


def match_tuple(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match a tuple, or the open interval of the same text, written as a solved inequality."""
    if has_inequality(prediction):
        return match_interval(gold, prediction, algebra)
    return match_sequence(gold, prediction, algebra)


def match_set(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match sets in any order, with or without braces; a tuple or an interval is not a set."""
    if _elements(prediction)[0]:
        return Finding(False, "brackets of a tuple or interval")
    if any(_SET_ALGEBRA.search(normalise(text)) for text in (gold.answer, prediction)):
        same = algebra.equal(gold.answer, prediction)
    else:
        same = _same_members(_members(gold.answer), _members(prediction), algebra)
    return Finding(same, "equal sets" if same else "other members")


def match_interval(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match unions of intervals: the same ends, open or closed alike, in any order of the parts.

    Of inequalities only those solved for one letter are read. Any other text goes to computer
    algebra, the gold first. Parts joined with `or` must be those of the gold, since
    `[1,2] or (1,2)` offers two answers.
    """
    expected, given = union_of_intervals(gold.answer), union_of_intervals(prediction)
    if expected is None or given is None:
        same = algebra.equal(gold.answer, prediction)
        return Finding(same, "equal sets" if same else "other sets")
    if _same_intervals(expected, given, algebra):
        return Finding(True, "the same ends")
    if len(expected) == len(given) == 1 or OR.search(open_text(prediction)):
        return Finding(False, "another end")
    same = algebra.equal(*(r"\cup ".join(map(str, parts)) for parts in (expected, given)))
    return Finding(same, "equal unions" if same else "other unions")


def _same_object(gold: str, prediction: str, algebra: Algebra) -> bool:
    """Compare numbers exactly, words as words, figures by their letters, tuples by their elements
    and all else by algebra; of a chain each claim, unless the gold is an equation itself."""
    if "=" in prediction and "=" not in gold:
        return all(_same_claim(gold, claim, algebra) for claim in claimed_values(prediction))
    return _same_claim(gold, prediction, algebra)


def _same_claim(gold: str, prediction: str, algebra: Algebra) -> bool:
    numbers = plain_number(gold), plain_number(prediction)
    if numbers[0] is not None and numbers[1] is not None:
        return close(numbers[0], numbers[1], ())
    if (in_base := compare_bases(gold, prediction)) is not None:
        return in_base.right
    if bool(_COLON.search(gold)) != bool(_COLON.search(prediction)):
        return False  # computer algebra would divide
    geometry = figure(gold), figure(prediction)
    if geometry != (None, None):
        return geometry[0] == geometry[1]
    if any(is_phrase(text) and not split_unit(text)[1] for text in (gold, prediction)):
        # computer algebra would read words as products of their letters
        return plain_text(gold) == plain_text(prediction)
    (brackets, expected), (others, given) = _tuple(gold), _tuple(prediction)
    if brackets or others:
        return brackets == others and _same_elements(expected, given, algebra)
    return algebra.equal(gold, prediction)


def _same_element(gold: str, prediction: str, algebra: Algebra) -> bool:
    return open_text(gold) == open_text(prediction) or _same_object(gold, prediction, algebra)


def _same_elements(expected: list[str], given: list[str], algebra: Algebra) -> bool:
    return len(expected) == len(given) and all(
        _same_element(g, p, algebra) for g, p in zip(expected, given, strict=True)
    )


def _match_named_values(expected: list[NamedValue], prediction: str, algebra: Algebra) -> Finding:
    values = [value for _, value in expected]
    given = named_values(prediction)
    if given is not None:
        same = len(given) == len(expected) and _contained(expected, given, algebra)
        same = same and _contained(given, expected, algebra)
    elif len({name for name, _ in expected}) == 1:
        same = not _elements(prediction)[0] and _same_members(values, _members(prediction), algebra)
    else:
        bracket, elements = _elements(prediction)
        same = bracket != "[" and _same_elements(values, elements, algebra)
    return Finding(same, "the same named values" if same else "other named values")


def _contained(some: list[NamedValue], others: list[NamedValue], algebra: Algebra) -> bool:
    return all(
        any(o.name == s.name and _same_element(s.value, o.value, algebra) for o in others)
        for s in some
    )


def _elements(text: str) -> tuple[str, list[str]]:
    """Return the bracket around all of it, `(`, `[` or none, and the text between the commas."""
    text = normalise(text)
    if text[:1] in ("(", "[") and enclosed(text):
        return text[0], split_top(text[1:-1], _COMMA)
    return "", split_top(text, _COMMA)


def _tuple(text: str) -> tuple[str, list[str]]:
    """Return the brackets around two or more elements, and these; empty for any other text, since
    `(1)` is a number."""
    text = normalise(text)
    bracket, elements = _elements(text)
    return (text[0] + text[-1], elements) if bracket and len(elements) > 1 else ("", [])


def _members(text: str) -> list[str]:
    """Return what a set lists: `\\pm a` as two, `x = 1, x = 2` without its one name."""
    body = open_text(text)
    if body.startswith(r"\{") and enclosed(body):
        body = body[2:-2]
    named = named_values(body)
    if named is not None and len({name for name, _ in named}) == 1:
        parts = [value for _, value in named]
    else:
        parts = [part for part in split_top(body, SEPARATOR) if part]
    return [part.replace(r"\pm", sign, 1) for part in parts for sign in _signs(part)]


def _signs(part: str) -> tuple[str, ...]:
    return ("+", "-") if part.count(r"\pm") == 1 else ("",)


def _same_members(expected: list[str], given: list[str], algebra: Algebra) -> bool:
    numbers = [[plain_number(part) for part in parts] for parts in (expected, given)]
    if None not in numbers[0] and None not in numbers[1]:
        return set(numbers[0]) == set(numbers[1])
    return all(any(_same_element(e, g, algebra) for g in given) for e in expected) and all(
        any(_same_element(e, g, algebra) for e in expected) for g in given
    )


def _same_intervals(
    expected: list[RealInterval], given: list[RealInterval], algebra: Algebra
) -> bool:
    left = list(given)
    for part in expected:
        same = next((other for other in left if _same_interval(part, other, algebra)), None)
        if same is None:
            return False
        left.remove(same)
    return not left


def _same_interval(gold: RealInterval, given: RealInterval, algebra: Algebra) -> bool:
    if (gold.low_closed, gold.high_closed) != (given.low_closed, given.high_closed):
        return False
    return all(
        _same_end(*ends, algebra) for ends in ((gold.low, given.low), (gold.high, given.high))
    )


def _same_end(gold: str, given: str, algebra: Algebra) -> bool:
    signs = infinity_sign(gold), infinity_sign(given)
    return signs[0] == signs[1] if any(signs) else _same_object(gold, given, algebra)
