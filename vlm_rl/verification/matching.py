"""Routes an answer to the matcher of its gold's type: the table at the end of this file.

A matcher is a function (gold, prediction, algebra) -> Finding. It raises Unparsable where the
prediction, GoldUnparsable where the gold cannot be read. What needs computer algebra asks
`algebra`, which in the trainer's process defers the whole question to a checking process; the
same matchers run there. A new type is a function and a row of the table.
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.choices import match_choice
from vlm_rl.verification.gold import MAX_CHARACTERS, Finding, Gold, GoldUnparsable, Unparsable
from vlm_rl.verification.intervals import match_interval
from vlm_rl.verification.notation import plain_text
from vlm_rl.verification.numbers import match_number, match_percent, match_ratio
from vlm_rl.verification.objects import match_latex, match_sequence, match_set
from vlm_rl.verification.quantities import check_tolerance, plain_number
from vlm_rl.verification.times import match_time
from vlm_rl.verification.units import split_unit

Outcome = Literal["correct", "wrong", "unparsable", "error"]
Matcher = Callable[[Gold, str, Algebra], Finding]


def decide(gold: Gold, prediction: str, algebra: Algebra) -> tuple[Outcome, str]:
    """Check one answer: the outcome and the rule that decided, such as `number: equal`.

    Raises NeedsAlgebra where `algebra` is absent and cannot be spared.
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
    """Raise GoldUnparsable for what no matcher could use."""
    if gold.answer_type not in MATCHERS:
        raise GoldUnparsable("unknown answer type")
    longest = max(map(len, (gold.answer, *gold.choices)))
    if not gold.answer.strip() or longest > MAX_CHARACTERS:
        raise GoldUnparsable(f"a gold or choice has 1 to {MAX_CHARACTERS} characters")
    check_tolerance(gold)


def infer_type(answer: str, has_choices: bool) -> str:
    """The type of a gold that names none; words go to text, not to a parser that reads letters
    as variables."""
    if has_choices or re.fullmatch(r"\(?[A-Z]\)?", answer.strip()):
        return "choice"
    if plain_number(answer) is not None:
        return "number"
    value, unit = split_unit(answer)
    if unit and plain_number(value) is not None:
        return "percent" if unit == "%" else "number_unit"
    if re.fullmatch(r"\d{1,2}:(?:\d\d\s*[ap]\.?m\.?|0\d)", answer.strip(), re.IGNORECASE):
        return "time"
    return "text" if re.fullmatch(r"[^\W\d_]{2,}(?:[\s-]+[^\W\d_]+)*", answer.strip()) else "latex"


def match_text(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """The same words, whatever their case, spacing and full stop."""
    same = plain_text(gold.answer) == plain_text(prediction)
    return Finding(same, "same words" if same else "other words")


MATCHERS: Mapping[str, Matcher] = {
    "choice": match_choice,
    "number": match_number,
    "number_unit": match_number,
    "percent": match_percent,
    "text": match_text,
    "time": match_time,
    "ratio": match_ratio,
    "list": match_sequence,
    "tuple": match_sequence,
    "set": match_set,
    "interval": match_interval,
    "matrix": match_latex,
    "expression": match_latex,
    "latex": match_latex,
}
