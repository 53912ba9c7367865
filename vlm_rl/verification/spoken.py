"""Numbers in words, and the words that multiply a number."""

import re
from fractions import Fraction

from vlm_rl.verification.notation import plain_text

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ONES = "|".join(_SMALL[1:10])
_VALUES = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
    **{"a": 1, "an": 1},
}
_ORDINALS = ["half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_PARTS = {
    **{word: Fraction(1, value) for value, word in enumerate(_ORDINALS, 2)},
    **{"fourth": Fraction(1, 4), "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000)},
}
FRACTION_WORDS = {**{f"{word}s": part for word, part in _PARTS.items()}, "halves": Fraction(1, 2)}
MULTIPLIERS = {
    **{"dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(1000)},
    **{word: Fraction(10**power) for word, power in (("million", 6), ("billion", 9))},
    **{"trillion": Fraction(10**12), "十": Fraction(10), "百": Fraction(100), "千": Fraction(1000)},
    **{"万": Fraction(10_000), "亿": Fraction(10**8)},
}
_SPOKEN = re.compile(
    r"(?P<sign>minus |negative )?"
    rf"(?:(?P<hundreds>an?|{_ONES}) hundred(?: and)?\b ?)?"
    rf"(?:(?P<tens>{'|'.join(_TENS)})(?: (?P<ones>{_ONES}))?|(?P<small>{'|'.join(_SMALL)}))?"
)
_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")}

_CHINESE = re.compile("([二三四五六七八九]?)十([一二三四五六七八九]?)")


def spoken_number(text: str) -> Fraction | None:
    """Return the number up to 999 that words name, None for any other text.

    Reads `five`, `twenty-one`, `one hundred and five`, `negative 7`, `one half`, `4 and a half`.
    """
    if chinese := _CHINESE.fullmatch(text):
        return Fraction(10 * _DIGITS.get(chinese[1], 1) + _DIGITS.get(chinese[2], 0))
    if not re.search("[a-z]{3}", text):
        return Fraction(_DIGITS[text]) if text in _DIGITS else None
    spoken = plain_text(text).replace("-", " ")
    if negated := re.fullmatch(r"(?:minus|negative) (\d+(?:\.\d+)?)", spoken):
        return -Fraction(negated[1])
    whole = _integer(spoken)
    if whole is not None:
        return whole
    parts = re.fullmatch(r"(?:(.+?) )?(?:(and) )?(an?|one|two|three) (\w+)", spoken)
    if not parts or parts[4].removesuffix("s") not in _PARTS or bool(parts[1]) != bool(parts[2]):
        return None
    fraction = _VALUES[parts[3]] * _PARTS[parts[4].removesuffix("s")]
    if not parts[1]:
        return fraction
    whole = Fraction(parts[1]) if parts[1].isdigit() else _integer(parts[1])
    return None if whole is None else whole + fraction


def _integer(spoken: str) -> Fraction | None:
    found = _SPOKEN.fullmatch(spoken)
    if not found or not any(found.group("hundreds", "tens", "small")):
        return None
    parts = found.group("hundreds", "tens", "ones", "small")
    hundreds, *others = (_VALUES[part] if part else 0 for part in parts)
    value = Fraction(100 * hundreds + sum(others))
    return -value if found["sign"] else value
