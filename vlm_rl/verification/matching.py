"""Decide whether an answer is right: read the gold, read the answer, compare the values.

In the trainer's process `numeric` is false: what needs more than exact arithmetic raises
NeedsAlgebra, and is asked again in a checking process.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from vlm_rl.verification import algebra
from vlm_rl.verification.bases import compare_bases
from vlm_rl.verification.choices import match_choice
from vlm_rl.verification.clock import TimeOfDay, clock, same_time
from vlm_rl.verification.equality import Equality
from vlm_rl.verification.gold import (
    MAX_CHARACTERS,
    Finding,
    Gold,
    GoldUnparsable,
    Unparsable,
    reading_gold,
)
from vlm_rl.verification.grammar import Node
from vlm_rl.verification.notation import normalise, open_text, spelled, tokens
from vlm_rl.verification.quantities import Quantity
from vlm_rl.verification.reading import read
from vlm_rl.verification.regions import Region
from vlm_rl.verification.units import conversion, is_percent, split_unit, unit_of
from vlm_rl.verification.values import Chain, Collection, Proportion, Value, has_unit
from vlm_rl.verification.words import is_phrase, is_prose, listed_labels, same_words, without_label

Decision = Literal["correct", "wrong", "unparsable", "error"]
"""The values of `Verdict` that a check can come to."""
FAULTS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, AssertionError)
"""Faults of a check that must not end a run: they are errors, counted and logged."""
ANSWER_TYPES = frozenset(
    (
        *("choice", "number", "number_unit", "percent", "text", "time", "ratio", "list", "tuple"),
        *("set", "interval", "matrix", "expression", "latex"),
    )
)


def decide(gold: Gold, prediction: str, *, numeric: bool) -> tuple[Decision, str]:
    """Check one answer; return the decision and its rule, such as `number: equal`."""
    try:
        check_gold(gold)
        if not prediction.strip():
            return "unparsable", "empty answer"
        if len(prediction) > MAX_CHARACTERS:
            return "unparsable", "refused: long"
        right, rule = _compare(gold, prediction, Equality(gold, numeric=numeric))
    except Unparsable as failure:
        return "unparsable", str(failure)
    except FAULTS as fault:
        return "error", f"check failed: {type(fault).__name__}"
    except GoldUnparsable as failure:
        return "error", f"gold unreadable: {failure}"
    return "correct" if right else "wrong", f"{gold.answer_type}: {rule}"


def check_gold(gold: Gold) -> None:
    """Raise GoldUnparsable for a gold that cannot be used whatever the answer."""
    if gold.answer_type not in ANSWER_TYPES:
        raise GoldUnparsable("unknown answer type")
    longest = max(map(len, (gold.answer, *gold.choices)))
    if not gold.answer.strip() or longest > MAX_CHARACTERS:
        raise GoldUnparsable(f"a gold or choice has 1 to {MAX_CHARACTERS} characters")
    for rule, size in gold.tolerance:
        if rule not in ("decimals", "abs", "rel") or not size >= 0:
            raise GoldUnparsable("a tolerance is not decimals, abs or rel and >= 0")


def infer_type(answer: str, has_choices: bool) -> str:
    """Return the type of a gold that names none, from what it reads as."""
    if has_choices or re.fullmatch(r"\(?[A-Z]\)?", answer.strip()):
        return "choice"
    if re.search(r"\d\s*(?:[ap]\.?\s?m\b|o'|[时点])", open_text(answer)) and clock(answer):
        return "time"
    if colons := _with_colons(normalise(answer)):
        return colons
    try:
        value = read(answer)
    except Unparsable:
        value = None
    if not isinstance(value, Quantity) or value.unit is None:
        if value is None and is_prose(answer):
            return "text"
        counted = isinstance(value, Quantity) and not algebra.names(value.tree)
        if is_phrase(answer) and not counted and not isinstance(value, Region | Collection):
            return "time" if clock(answer) else "text"
        if _says_unit(answer):
            return "number_unit"
    return "latex" if value is None else _type_of(value)


def _type_of(value: Value) -> str:
    if isinstance(value, Region):
        return "interval"
    if isinstance(value, Proportion):
        return "ratio"
    if isinstance(value, Collection):
        if any(isinstance(item, Chain) for item in value.items):
            return "latex"
        square = "interval" if len(value.items) == 2 else "list"
        return {"(": "tuple", "[": square}.get(value.bracket, "set")
    if isinstance(value, Quantity):
        if is_percent(value.unit):
            return "percent"
        if value.unit is not None:
            return "number_unit"
        return "number" if _is_rational(value.tree) else "latex"
    return "latex"


def _is_rational(tree: Node) -> bool:
    try:
        return algebra.exact(tree) is not None
    except Unparsable:
        return False


def _with_colons(text: str) -> str | None:
    """Tell `1:2`, a ratio, from `5:30`, a time: what could be reduced or has a leading zero."""
    if re.search(r"\d:\d\d\s*[ap]\.?m|\d:0\d$", text, re.IGNORECASE) and clock(text):
        return "time"
    parts = re.fullmatch(r"\s*(\d+)\s*:\s*([0-5]\d)\s*", text)
    if parts and int(parts[1]) < 24:
        return "time" if _reducible(int(parts[1]), int(parts[2])) else "ratio"
    return None


def _reducible(a: int, b: int) -> bool:
    return any(a % n == b % n == 0 for n in range(2, 60)) or a == 0


def _says_unit(answer: str) -> bool:
    """Return whether plain letters are a unit: behind a number and a space, and a quotient."""
    value, unit = split_unit(tokens(normalise(answer)), lenient=True)
    behind = tokens(normalise(answer))[len(value) :]
    return (
        unit is not None and spelled(value)[:1].isdigit() and len(value) == 1 and behind[0].spaced
    )


def _compare(gold: Gold, prediction: str, equality: Equality) -> Finding:
    kind = gold.answer_type
    if kind == "choice":
        return match_choice(gold, prediction, equality)
    if _folded(gold.answer) == _folded(prediction):
        return Finding(True, "same text")
    prediction = without_label(normalise(prediction))
    if _folded(gold.answer) == _folded(prediction):
        return Finding(True, "same text")
    labels = listed_labels(gold.answer), listed_labels(prediction)
    if labels[0] is not None and (
        labels[1] is not None or r"\textcircled" in normalise(gold.answer)
    ):
        return _finding(labels[0] == labels[1], "labels")
    if kind == "text" and (same_words(gold.answer, prediction) or not _is_statement(gold.answer)):
        return _finding(same_words(gold.answer, prediction), "words")
    if kind == "latex" and infer_type(gold.answer, False) == "text":
        return _finding(same_words(gold.answer, prediction), "words")
    if kind == "time" or (kind == "latex" and infer_type(gold.answer, False) == "time"):
        times = clock(gold.answer), clock(prediction)
        if times[0] and times[1]:
            return _finding(same_time(times[0], times[1]), "time")
        if any(times):
            return _finding(_same_length(gold.answer, prediction, times), "time")
        if same_words(gold.answer, prediction):
            return Finding(True, "same words")
    in_base = compare_bases(gold.answer, prediction)
    if in_base is not None:
        return in_base
    lenient = kind in ("number_unit", "time") or bool(gold.unit) or _says_unit(gold.answer)
    with reading_gold():
        expected = read(gold.answer, lenient=lenient)
        _check_kind(kind, expected)
    last = expected.sides[-1] if isinstance(expected, Chain) else expected
    given = read(prediction, lenient=lenient or has_unit(last))
    if not lenient and has_unit(given) and not has_unit(expected):
        expected = read(gold.answer, lenient=True)  # `5 m` is a length beside `5\\text{ m}`
    same = equality.same(expected, given)
    return Finding(same, "same value" if same else equality.reason)


def _same_length(gold: str, given: str, times: Sequence[TimeOfDay | None]) -> bool:
    """Compare `1:30` with a length of time: minutes and seconds of seconds, else hours and minutes."""
    written, clocked = (gold, times[1]) if times[1] else (given, times[0])
    length = read(written, lenient=True)
    if clocked is None or clocked.half or not isinstance(length, Quantity) or length.unit is None:
        return False
    second = unit_of("s")
    seconds = clocked.seconds if length.unit != second else Fraction(clocked.seconds, 60)
    factor, value = conversion(second, length.unit), algebra.exact(length.tree)
    return factor is not None and value is not None and value * factor == seconds


def _check_kind(kind: str, value: Value) -> None:
    """Raise Unparsable for the gold of a number that is none."""
    if kind in ("number", "number_unit", "percent"):
        last = value.sides[-1] if isinstance(value, Chain) else value
        if not isinstance(last, Quantity | Proportion):
            raise Unparsable("not one number")
        if isinstance(last, Quantity) and (algebra.names(last.tree) or last.tree.op == "matrix"):
            raise Unparsable("not one number")
    if isinstance(value, Quantity):
        algebra.exact(value.tree)  # raises for numbers that are too large


def _finding(right: bool, what: str) -> Finding:
    return Finding(right, f"same {what}" if right else f"another {what}")


def _is_statement(text: str) -> bool:
    """Return whether a text is a statement of geometry, which says the same in several ways."""
    return bool(
        re.search(r"\\(?:angle|triangle|parallel|perp|bot|sim|cong)(?![a-z])", normalise(text))
    )


def _folded(text: str) -> str:
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", normalise(text))
