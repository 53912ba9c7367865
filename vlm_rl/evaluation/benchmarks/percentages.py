"""Questions that ask for a percentage while their gold is a bare number, such as 50.

Compared as a number, such a gold makes the natural answer `50\\%`, which is 0.5, wrong.
"""

import re

from vlm_rl.records import GoldType, Problem
from vlm_rl.verification.notation import open_text
from vlm_rl.verification.reading import cut_unit, plain_number

_ASKED = re.compile(
    r"\b(?:what|how many) percent"
    r"|\bwhat(?:'s| is| was| are| were| would be)(?: the| its| their)?"
    r"(?: (?!(?:of|in|for|with|to|when|where|that|whose|has|have)\b)\w+){0,2} +percent"
    r"|\b(?:find|calculate|determine|compute) the percent"
    r"|\bthe percent(?:age)? (?:increase|decrease|change)\b[^.?!]*\bis (?:closest to|about)\b",
    re.IGNORECASE,
)


def percent_type(problem: Problem) -> GoldType | None:
    """Return the answer type of `problem`: percent if it is a free question for a percentage whose
    gold is a number with no other unit."""
    free = problem.answer_type in (None, "number") and not problem.choices and not problem.unit
    if not free or not asks_for_percentage(problem.question):
        return problem.answer_type
    value, unit = cut_unit(problem.answer)
    percent = open_text(unit) in ("", "%", "percent")
    return "percent" if percent and plain_number(value) is not None else problem.answer_type


def asks_for_percentage(question: str) -> bool:
    """Whether `question` asks for a percentage: `what percent of` and `what is the total percentage
    of` do, `in how many years is the percentage above 4` does not."""
    return _ASKED.search(question) is not None
