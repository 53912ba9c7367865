"""Decide whether an answer is right: read the gold, read the answer, compare the values.

In the trainer's process `numeric` is false: what may take long, comparing irrational values,
raises NeedsAlgebra, and is asked again in a checking process.
"""

import functools
import math
import re
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
from vlm_rl.verification.grammar import Node, number
from vlm_rl.verification.names import name_of
from vlm_rl.verification.notation import normalise, open_text, tokens
from vlm_rl.verification.quantities import Quantity
from vlm_rl.verification.reading import read
from vlm_rl.verification.regions import Region
from vlm_rl.verification.units import Unit, is_percent, split_unit, unit_of
from vlm_rl.verification.values import Chain, Collection, Proportion, Value, has_unit
from vlm_rl.verification.words import is_phrase, is_prose, listed_labels, same_words, without_label

Decision = Literal["correct", "wrong", "unparsable", "error"]
"""The values of `Verdict` that a check can come to."""
FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, StopIteration),
    *(TypeError, ValueError),
)
"""Faults of a check that must not end a run: they are errors, counted and logged."""
ANSWER_TYPES = frozenset(
    (
        *("choice", "number", "number_unit", "percent", "text", "time", "ratio", "list", "tuple"),
        *("set", "interval", "matrix", "expression", "latex"),
    )
)
FULL_MATCH = "full_match"
"""The type of a gold that is a pattern of Python's `re`, which must match the whole answer. No data
set names it: a reward term does."""
_GEOMETRY = re.compile(r"\\(?:angle|triangle|parallel|perp|bot|sim|cong)(?![a-z])")


def decide(gold: Gold, prediction: str, *, numeric: bool) -> tuple[Decision, str]:
    """Check one answer; return the decision and its rule, such as `number: same value`."""
    try:
        if gold.answer_type == FULL_MATCH:
            return _match_whole(gold.answer, prediction, numeric=numeric)
        check_gold(gold)
        if not prediction.strip():
            return "unparsable", "empty answer"
        if len(prediction) > MAX_CHARACTERS:
            return "unparsable", "refused: long"
        right, rule = _compare(gold, prediction, Equality(gold, numeric=numeric))
    except Unparsable as failure:
        return "unparsable", str(failure)
    except GoldUnparsable as failure:
        return "error", f"gold unreadable: {failure}"
    except FAULTS as fault:
        return "error", f"check failed: {type(fault).__name__}"
    return "correct" if right else "wrong", f"{gold.answer_type}: {rule}"


def _match_whole(pattern: str, prediction: str, *, numeric: bool) -> tuple[Decision, str]:
    """Match in a checking process alone: a pattern may take longer than any run lasts."""
    if not numeric:
        raise algebra.NeedsAlgebra
    if len(prediction) > MAX_CHARACTERS:
        return "unparsable", "refused: long"
    try:
        matched = re.fullmatch(pattern, prediction) is not None
    except (re.error, OverflowError) as error:
        raise GoldUnparsable(f"not a pattern: {error}") from error
    return ("correct" if matched else "wrong"), f"{FULL_MATCH}: pattern"


def check_gold(gold: Gold) -> None:
    """Raise GoldUnparsable for a gold that cannot be used whatever the answer."""
    if gold.answer_type not in ANSWER_TYPES:
        raise GoldUnparsable("unknown answer type")
    longest = max(map(len, (gold.answer, *gold.choices)))
    if not gold.answer.strip() or longest > MAX_CHARACTERS:
        raise GoldUnparsable(f"a gold or choice has 1 to {MAX_CHARACTERS} characters")
    for rule, size in gold.tolerance:
        if rule not in ("decimals", "abs", "rel") or not 0 <= size < (
            31 if rule == "decimals" else 1e9
        ):
            raise GoldUnparsable("a tolerance is not decimals up to 30, abs or rel and >= 0")


@functools.lru_cache(maxsize=1 << 14)
def infer_type(answer: str, has_choices: bool) -> str:
    """Return the type of a gold that names none, from what it reads as."""
    if has_choices or re.fullmatch(r"[A-Z]|\([A-Za-z]\)", answer.strip()):
        return "choice"
    if re.search(r"\d\s*(?:[ap]\.?\s?m\b|o'|[时点])", open_text(answer)) and clock(answer):
        return "time"
    if colons := _with_colons(normalise(answer)):
        return colons
    try:
        value = read(answer)
    except Unparsable:
        value = None
    if value is None and is_prose(answer):
        return "text"
    counted = isinstance(value, Quantity) and (value.unit or not algebra.names(value.tree))
    if is_phrase(answer) and not counted and not isinstance(value, Region | Collection):
        return "time" if clock(answer) else "text"
    kind = _type_of(value)
    return "number_unit" if kind != "percent" and _says_unit(answer) else kind


def is_lenient(gold: Gold) -> bool:
    """Return whether single letters behind a number are units, in the gold and in answers to it."""
    measured = gold.answer_type in ("number_unit", "time")
    return measured or bool(gold.unit) or _says_unit(gold.answer)


def _type_of(value: Value | None) -> str:
    match value:
        case Region():
            return "interval"
        case Proportion():
            return "ratio"
        case Collection(bracket, items) if not any(isinstance(item, Chain) for item in items):
            pair = len(items) == 2
            if bracket == "(" and pair and _increases(*items):
                return "latex"  # a point or an open interval: who wrote the gold knows
            square = "interval" if pair else "list"
            return {"(": "tuple", "[": square}.get(bracket, "set")
        case Quantity(_, Unit() as unit):
            return "percent" if is_percent(unit) else "number_unit"
        case Quantity(tree) if _is_rational(tree):
            return "number"
    return "latex"


def _increases(low: Value, high: Value) -> bool:
    """Return whether two values may be the ends of an interval."""
    if not (isinstance(low, Quantity) and isinstance(high, Quantity)):
        return False
    a, b = low.size, high.size
    return a is None or b is None or a < b


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
    if not parts or int(parts[1]) >= 24:
        return None
    hour, minute = int(parts[1]), int(parts[2])
    return "time" if hour == 0 or math.gcd(hour, minute) > 1 else "ratio"


def _says_unit(answer: str) -> bool:
    """Return whether plain letters are a unit: behind a number and a space."""
    parts = tokens(normalise(answer))
    value, unit = split_unit(parts, lenient=True)
    numeral = len(value) == 1 and value[0].text[0].isdigit()
    return unit is not None and numeral and parts[1].spaced


def _compare(gold: Gold, prediction: str, equality: Equality) -> Finding:
    if gold.answer_type == "choice":
        return match_choice(gold, prediction, equality)
    given = without_label(normalise(prediction))
    if _folded(gold.answer) in (_folded(prediction), _folded(given)):
        return Finding(True, "same text")
    kind = gold.answer_type
    inferred = infer_type(gold.answer, False) if kind == "latex" else kind
    listed = inferred in ("set", "latex") or r"\textcircled" in normalise(gold.answer)
    return (
        (_compare_labels(gold.answer, given) if listed and inferred != "list" else None)
        or compare_bases(gold.answer, given)
        or (_compare_words(gold, given, prediction) if inferred == "text" else None)
        or (_compare_times(gold.answer, given, equality) if inferred == "time" else None)
        or _compare_values(gold, given, equality)
    )


def _compare_labels(gold: str, given: str) -> Finding | None:
    """Compare what lists labels with marks between them, or in circles, with what lists them."""
    if re.fullmatch("[A-Z]*", gold.strip()):
        return None
    expected, offered = listed_labels(gold), listed_labels(given)
    circled = r"\textcircled" in normalise(gold)
    if expected is None or (offered is None and not circled):
        return None
    return _finding(expected == offered, "labels")


def _compare_words(gold: Gold, given: str, whole: str) -> Finding | None:
    """Compare words; None for other words of geometry, which says the same in several ways."""
    subject, _, said = given.partition(" is ")
    named = bool(said) and name_of(tokens(subject)) is not None
    same = same_words(gold.answer, said if named else given) or same_words(gold.answer, whole)
    formal = gold.answer_type == "text" and _GEOMETRY.search(normalise(gold.answer))
    point = re.fullmatch(r"\(.*,.*\)", gold.answer.strip())
    return None if (formal or point) and not same else _finding(same, "words")


def _compare_times(gold: str, given: str, equality: Equality) -> Finding | None:
    match clock(gold), clock(given):
        case TimeOfDay() as expected, TimeOfDay() as offered:
            return _finding(same_time(expected, offered), "time")
        case TimeOfDay() as time, None:
            return _finding(_is_length(time, given, equality), "time")
        case None, TimeOfDay() as time:
            return _finding(_is_length(time, gold, equality), "time")
    return Finding(True, "same words") if same_words(gold, given) else None


def _is_length(time: TimeOfDay, text: str, equality: Equality) -> bool:
    """Compare `1:30` with a length: minutes and seconds if it is in seconds, else hours."""
    length, second = read(text, lenient=True), unit_of("s")
    if time.half or not isinstance(length, Quantity) or length.unit is None:
        return False
    seconds = Fraction(time.seconds, 60 if length.unit == second else 1)
    return equality.same(Quantity(number(seconds), second), length)


def _compare_values(gold: Gold, given: str, equality: Equality) -> Finding:
    lenient = is_lenient(gold)
    with reading_gold():
        expected = read(gold.answer, lenient=lenient)
        _check_gold_value(expected, gold.answer_type)
    offered = read(given, lenient=lenient or has_unit(_last(expected)))
    if has_unit(offered) and not has_unit(expected):
        expected = read(gold.answer, lenient=True)  # `5 m` is a length beside `5\\text{ m}`
    same = equality.same(expected, offered)
    return Finding(same, "same value" if same else equality.reason)


def _check_gold_value(value: Value, kind: str) -> None:
    """Raise Unparsable for the gold of a number that is none, and for numbers too large."""
    last = _last(value)
    formula = isinstance(last, Quantity) and (last.tree.op == "matrix" or algebra.names(last.tree))
    one_number = isinstance(last, Quantity | Proportion) and not formula
    formula_with_unit = kind == "number_unit" and isinstance(last, Quantity) and last.unit
    if kind in ("number", "number_unit", "percent") and not (one_number or formula_with_unit):
        raise Unparsable("not one number")
    if isinstance(value, Quantity):
        algebra.exact(value.tree)


def _last(value: Value) -> Value:
    return value.sides[-1] if isinstance(value, Chain) else value


def _finding(right: bool, what: str) -> Finding:
    return Finding(right, f"same {what}" if right else f"another {what}")


def _folded(text: str) -> str:
    return re.sub(r"(?<![\w,\s])\s+|\s+(?![\w\s])", "", normalise(text))
