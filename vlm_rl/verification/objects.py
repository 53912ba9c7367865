"""Matchers of mathematical objects and of collections of them: expression, tuple, list, set."""

import re

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.assignments import SEPARATOR, Assignment, assignments
from vlm_rl.verification.bases import compare_bases
from vlm_rl.verification.figures import figure
from vlm_rl.verification.gold import Finding, Gold, reading_gold
from vlm_rl.verification.notation import enclosed, normalise, open_text, plain_text, split_top
from vlm_rl.verification.numbers import match_number, without_approximations
from vlm_rl.verification.quantities import claimed_values, close, plain_number
from vlm_rl.verification.units import split_unit
from vlm_rl.verification.words import is_phrase

_COMMA = re.compile(r"[,;]")
_COLON = re.compile(r"\d\s*:\s*\d")
_SET_ALGEBRA = re.compile(r"\\(?:cup|cap|setminus|mid|emptyset|varnothing|infty|ldots|dots)|\|")


def match_expression(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """The same mathematical object; numbers where the problem gives a tolerance. Of a chain
    `a = b` every claim must hold, unless the gold is an equation itself.

    A gold of named values, `x=1, y=2`, is met by the same names in any order and by the values
    alone in the order of the gold: `(1,2)`. The roots `x_1=1, x_2=2` are met in any order.
    """
    if gold.tolerance:
        return match_number(gold, prediction, algebra)
    named = assignments(gold.answer)
    if named is not None:
        return _match_assignments(named, prediction, algebra)
    with reading_gold():
        expected = without_approximations(gold.answer, algebra)
    same = same_object(expected, without_approximations(prediction, algebra), algebra)
    return Finding(same, "the same object" if same else "another object")


def match_sequence(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Element by element, in order; brackets may be left out but must not differ."""
    gold_bracket, expected = _elements(gold.answer)
    bracket, given = _elements(prediction)
    if bracket != gold_bracket and "" not in (bracket, gold_bracket):
        return Finding(False, "other brackets")
    if len(expected) != len(given):
        return Finding(False, "another number of elements")
    same = all(_same_element(g, p, algebra) for g, p in zip(expected, given, strict=True))
    return Finding(same, "element by element" if same else "another element")


def match_set(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Equal as sets, in any order, with or without braces; a tuple or interval is none."""
    if _elements(prediction)[0]:
        return Finding(False, "brackets of a tuple or interval")
    if any(_SET_ALGEBRA.search(normalise(text)) for text in (gold.answer, prediction)):
        same = algebra.equal(gold.answer, prediction)
    else:
        same = _same_members(_members(gold.answer), _members(prediction), algebra)
    return Finding(same, "equal sets" if same else "other members")


def same_object(gold: str, prediction: str, algebra: Algebra) -> bool:
    """Whether two texts mean the same: numbers exactly, words as words, figures by their letters,
    tuples by their elements, all else by algebra; of a chain `a = b` each claim, unless the gold is
    an equation itself."""
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
    figures = figure(gold), figure(prediction)
    if figures != (None, None):
        return figures[0] == figures[1]
    if any(is_phrase(text) and not split_unit(text)[1] for text in (gold, prediction)):
        # computer algebra would read words as products of their letters
        return plain_text(gold) == plain_text(prediction)
    (bracket, expected), (other, given) = _tuple(gold), _tuple(prediction)
    if bracket or other:
        return (bracket, len(expected)) == (other, len(given)) and all(
            _same_element(g, p, algebra) for g, p in zip(expected, given, strict=True)
        )
    return algebra.equal(gold, prediction)


def _same_element(gold: str, prediction: str, algebra: Algebra) -> bool:
    return open_text(gold) == open_text(prediction) or same_object(gold, prediction, algebra)


def _match_assignments(expected: list[Assignment], prediction: str, algebra: Algebra) -> Finding:
    values = [value for _, value in expected]
    given = assignments(prediction)
    if given is None and len({name for name, _ in expected}) == 1:
        same = not _elements(prediction)[0] and _same_members(values, _members(prediction), algebra)
    elif given is None:
        bracket, found = _elements(prediction)
        same = bracket != "[" and len(found) == len(values)
        same = same and all(_same_element(*p, algebra) for p in zip(values, found, strict=True))
    else:
        same = len(given) == len(expected) and _contained(expected, given, algebra)
        same = same and _contained(given, expected, algebra)
    return Finding(same, "the same named values" if same else "other named values")


def _contained(some: list[Assignment], others: list[Assignment], algebra: Algebra) -> bool:
    return all(
        any(o.name == s.name and _same_element(s.value, o.value, algebra) for o in others)
        for s in some
    )


def _elements(text: str) -> tuple[str, list[str]]:
    """The bracket around all of it, `(`, `[` or none, and what stands between the commas."""
    text = normalise(text)
    if text[:1] in ("(", "[") and enclosed(text):
        return text[0], split_top(text[1:-1], _COMMA)
    return "", split_top(text, _COMMA)


def _tuple(text: str) -> tuple[str, list[str]]:
    """The brackets around two elements or more and these, for all else none: `(1)` is a number."""
    text = normalise(text)
    bracket, elements = _elements(text)
    return (text[0] + text[-1], elements) if bracket and len(elements) > 1 else ("", [])


def _members(text: str) -> list[str]:
    """What a set lists, with `\\pm a` as two and the one name of `x = 1, x = 2` taken off."""
    body = open_text(text)
    if body.startswith(r"\{") and enclosed(body):
        body = body[2:-2]
    named = assignments(body)
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
