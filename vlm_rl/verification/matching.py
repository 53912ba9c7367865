"""Route an answer to the matcher of its gold's type: the table at the end of this file.

A matcher is a function (gold, prediction, algebra) -> Finding. It raises Unparsable if the
prediction cannot be read, GoldUnparsable if the gold cannot be read. What needs computer algebra
asks `algebra`. In the trainer's process that defers the whole question to a checking process,
where the same matchers run. A new type is a function and a row of the table.
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.choices import match_choice
from vlm_rl.verification.exact_numbers import check_tolerance, plain_number
from vlm_rl.verification.forms import form_of
from vlm_rl.verification.gold import MAX_CHARACTERS, Finding, Gold, GoldUnparsable, Unparsable
from vlm_rl.verification.notation import plain_text
from vlm_rl.verification.objects import (
    match_expression,
    match_interval,
    match_sequence,
    match_set,
    match_tuple,
)
from vlm_rl.verification.quantities import match_number, match_percent, match_ratio, match_time
from vlm_rl.verification.units import split_unit

Decision = Literal["correct", "wrong", "unparsable", "error"]
"""The values of `Verdict` that a matcher can come to; importing that would import torch."""
Matcher = Callable[[Gold, str, Algebra], Finding]


def decide(gold: Gold, prediction: str, algebra: Algebra) -> tuple[Decision, str]:
    """Check one answer; return the decision and its rule, such as `number: equal`.

    Raises NeedsAlgebra if `algebra` is NoAlgebra and the question needs more.
    """
    try:
        check_gold(gold)
        if not prediction.strip():
            return "unparsable", "empty answer"
        if len(prediction) > MAX_CHARACTERS:
            return "unparsable", "refused: long"
        right, rule = MATCHERS[gold.answer_type](gold, prediction, algebra)
    except Unparsable as failure:
        return "unparsable", str(failure)
    except GoldUnparsable as failure:
        return "error", f"gold unreadable: {failure}"
    return "correct" if right else "wrong", f"{gold.answer_type}: {rule}"


def check_gold(gold: Gold) -> None:
    """Raise GoldUnparsable for a gold that no matcher can use."""
    if gold.answer_type not in MATCHERS:
        raise GoldUnparsable("unknown answer type")
    longest = max(map(len, (gold.answer, *gold.choices)))
    if not gold.answer.strip() or longest > MAX_CHARACTERS:
        raise GoldUnparsable(f"a gold or choice has 1 to {MAX_CHARACTERS} characters")
    check_tolerance(gold)


def infer_type(answer: str, has_choices: bool) -> str:
    """Return the type of a gold that names none: by its number and unit, else by its form."""
    if has_choices or re.fullmatch(r"\(?[A-Z]\)?", answer.strip()):
        return "choice"
    if plain_number(answer) is not None:
        return "number"
    value, unit = split_unit(answer)
    if unit and plain_number(value) is not None:
        return "percent" if unit == "%" else "number_unit"
    return form_of(answer) or "latex"


def match_text(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match the same words, whatever their case, spacing and full stop."""
    same = plain_text(gold.answer) == plain_text(prediction)
    return Finding(same, "same words" if same else "other words")


def match_latex(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match as the type that the gold looks like, by default as an expression."""
    form = "expression" if gold.tolerance else infer_type(gold.answer, False)
    matcher = MATCHERS[form] if form in _FORMS else match_expression
    return matcher(gold, prediction, algebra)


_FORMS = ("tuple", "set", "interval", "list", "ratio", "text", "time", "number_unit")
"""The types by which a gold of type latex is compared if it looks like one of them."""

MATCHERS: Mapping[str, Matcher] = {
    "choice": match_choice,
    "number": match_number,
    "number_unit": match_number,
    "percent": match_percent,
    "text": match_text,
    "time": match_time,
    "ratio": match_ratio,
    "list": match_sequence,
    "tuple": match_tuple,
    "set": match_set,
    "interval": match_interval,
    "matrix": match_expression,
    "expression": match_expression,
    "latex": match_latex,
}
