"""Matchers of mathematical objects and of collections of them: expression, tuple, list, set."""

import re

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.gold import Finding, Gold
from vlm_rl.verification.notation import normalise, open_text, plain_text, split_top
from vlm_rl.verification.numbers import match_number
from vlm_rl.verification.quantities import claimed_values, close, plain_number

_COMMA = re.compile(r"[,;]")
_CONJUNCTION = re.compile(r"[,;]|\bor\b|\band\b")
_WORDS = re.compile(r"[^\W\d_]{3,}(?:[\s-]+[^\W\d_]+)*")


def match_latex(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """The same mathematical object; numbers where the problem gives a tolerance. Of a chain
    `a = b` every claim must hold, unless the gold is an equation itself."""
    if gold.tolerance:
        return match_number(gold, prediction, algebra)
    claims = [prediction] if "=" in gold.answer else claimed_values(prediction)
    same = all(same_object(gold.answer, claim, algebra) for claim in claims)
    return Finding(same, "the same object" if same else "another object")


def match_sequence(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Element by element, in order; brackets may be left out but must not differ."""
    gold_bracket, expected = _elements(gold.answer)
    bracket, given = _elements(prediction)
    if bracket != gold_bracket and "" not in (bracket, gold_bracket):
        return Finding(False, "other brackets")
    if len(expected) != len(given):
        return Finding(False, "another number of elements")
    same = all(
        plain_text(g) == plain_text(p) or same_object(g, p, algebra)
        for g, p in zip(expected, given, strict=True)
    )
    return Finding(same, "element by element" if same else "another element")


def match_set(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Equal as sets, with or without braces; a tuple or interval is none."""
    if _elements(prediction)[0]:
        return Finding(False, "brackets of a tuple or interval")
    expected, given = _plain_members(gold.answer), _plain_members(prediction)
    if expected is not None and given is not None:
        same = expected == given
    else:
        same = algebra.equal(gold.answer, prediction)
    return Finding(same, "equal sets" if same else "other members")


def same_object(gold: str, prediction: str, algebra: Algebra) -> bool:
    """Whether two texts mean the same: numbers exactly, words as words, all else by algebra."""
    numbers = plain_number(gold), plain_number(prediction)
    if numbers[0] is not None and numbers[1] is not None:
        return close(numbers[0], numbers[1], ())
    if any(_WORDS.fullmatch(open_text(text)) for text in (gold, prediction)):
        # computer algebra would read words as products of their letters
        return plain_text(gold) == plain_text(prediction)
    return algebra.equal(gold, prediction)


def _elements(text: str) -> tuple[str, list[str]]:
    """The bracket around all of it, `(`, `[` or none, and what stands between the commas."""
    text = normalise(text)
    if re.fullmatch(r"[(\[].*[)\]]", text, re.DOTALL) and len(split_top(text, _COMMA)) == 1:
        return text[0], split_top(text[1:-1], _COMMA)
    return "", split_top(text, _COMMA)


def _plain_members(text: str) -> set[object] | None:
    """The members of a set of plain numbers, None for all other sets."""
    body = open_text(text)
    if body.startswith(r"\{") and body.endswith(r"\}"):
        body = body[2:-2]
    numbers = {plain_number(part) for part in split_top(body, _CONJUNCTION)}
    return None if None in numbers else set(numbers)
