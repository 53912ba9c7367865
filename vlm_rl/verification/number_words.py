"""Numbers in English words, up to 999: `five`, `twenty-one`, `one hundred and five`."""

import re

from vlm_rl.verification.notation import plain_text

_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ONES = "|".join(_SMALL[1:10])
NUMBER_WORDS = frozenset((*_SMALL, *_TENS, "hundred", "thousand", "million"))
_WORDS = re.compile(
    r"(?P<sign>minus |negative )?"
    rf"(?:(?P<hundreds>an?|{_ONES}) hundred(?: and)?\b ?)?"
    rf"(?:(?P<tens>{'|'.join(_TENS)})(?: (?P<ones>{_ONES}))?|(?P<small>{'|'.join(_SMALL)}))?"
)


def spoken_number(text: str) -> int | None:
    """The integer that words name, None for all other text."""
    found = _WORDS.fullmatch(plain_text(text).replace("-", " "))
    if not found or not any(found[name] for name in ("hundreds", "tens", "small")):
        return None
    value = 0
    if found["hundreds"]:
        value += 100 * (_SMALL.index(found["hundreds"]) if found["hundreds"] in _SMALL else 1)
    if found["tens"]:
        value += 10 * (_TENS.index(found["tens"]) + 2)
    value += sum(_SMALL.index(found[name]) for name in ("ones", "small") if found[name])
    return -value if found["sign"] else value
