"""The relaxed match of ChartQA (Masry et al. 2022, https://arxiv.org/abs/2203.10244, section 5.1).

Their paper: a number is right within 5 % of the gold, and any other answer must match exactly. What
the paper leaves open is read here as the scorers in use read it: `12%` is 0.12 on either side, and
letters match in either case. Beyond these, `1,234` is the number 1234, and the bound is exact, so
that 1.05 is within 5 % of 1 in spite of binary fractions.
"""

import re
from decimal import Decimal

_TOLERANCE = Decimal("0.05")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[-+]?\d{1,3})?", re.IGNORECASE)


def is_relaxed_match(answer: str, gold: str) -> bool:
    """Whether `answer` is within 5 % of the number `gold`, or is the same text apart from case.

    A gold of 0 admits 0 only. A number and a text never match unless they are the same text.
    """
    given, expected = _number(answer), _number(gold)
    if given is None or expected is None:
        return answer.strip().lower() == gold.strip().lower()
    return abs(given - expected) <= _TOLERANCE * abs(expected)


def _number(text: str) -> Decimal | None:
    digits = text.strip().replace("\u2212", "-")
    percent = digits.endswith("%")
    digits = digits.removesuffix("%").rstrip()
    if not _NUMBER.fullmatch(digits) or not re.match(r"[-+]?\.?\d", digits):
        return None
    value = Decimal(digits.replace(",", ""))
    return value / 100 if percent else value
