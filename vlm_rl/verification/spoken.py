"""Numbers in words, and the words that multiply a number."""

import re
from collections.abc import Callable
from fractions import Fraction

from vlm_rl.verification.notation import plain_text

_SMALL, _TENS, _ORDINALS = map(
    str.split,
    (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
        " fifteen sixteen seventeen eighteen nineteen",
        "twenty thirty forty fifty sixty seventy eighty ninety",
        "half third quarter fifth sixth seventh eighth ninth tenth",
    ),
)
_VALUES = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
    **{"a": 1, "an": 1},
}
_PARTS = {
    **{word: Fraction(1, value) for value, word in enumerate(_ORDINALS, 2)},
    **{"fourth": Fraction(1, 4), "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000)},
}
FRACTION_WORDS = {**{f"{word}s": part for word, part in _PARTS.items()}, "halves": Fraction(1, 2)}
MULTIPLIERS = {
    **{"dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(1000)},
    **{"million": Fraction(10**6), "billion": Fraction(10**9), "trillion": Fraction(10**12)},
    **{"十": Fraction(10), "百": Fraction(100), "千": Fraction(1000)},
    **{"万": Fraction(10**4), "亿": Fraction(10**8)},
}
_ONES = "|".join(_SMALL[1:10])
_SPOKEN = re.compile(
    rf"(?P<sign>minus |negative )?(?:(?P<hundreds>an?|{_ONES}) hundred(?: and)?\b ?)?"
    rf"(?:(?P<tens>{'|'.join(_TENS)})(?: (?P<ones>{_ONES}))?|(?P<small>{'|'.join(_SMALL)}))?"
)
_AND_PART = re.compile(r"(?:(?P<whole>.+?) and )?(?P<count>an?|one|two|three) (?P<part>\w+?)s?")
_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"两": 2}
_POWERS = {"十": 10, "百": 100, "千": 1000}
_DIGIT = "[一二两三四五六七八九]"
_SECTION = f"(?:{_DIGIT}千)?零?(?:{_DIGIT}百)?零?(?:{_DIGIT}?十)?零?{_DIGIT}?"
_CHINESE = f"负?(?=[{''.join(_DIGITS)}十])(?:{_SECTION}亿)?零?(?:{_SECTION}万)?零?{_SECTION}"
_CHINESE_NUMBER = re.compile(_CHINESE)
_CHINESE_FRACTION = re.compile(f"(?:({_CHINESE})又)?({_CHINESE})分之({_CHINESE})")
_HALF = re.compile(f"(?:({_CHINESE})个)?半个?(.+)")
_AND_A_PART = re.compile(r"(.+ and an? \w+) (.+)")
_CHINESE_QUANTITY = re.compile(f"({_CHINESE})([^{''.join(_DIGITS)}十百千万亿].*)?")


def spoken_number(text: str) -> Fraction | None:
    """Return the number that words name, None for any other text.

    Reads `five`, `twenty-one`, `one hundred and five`, `negative 7`, `one half`, `4 and a half`.
    """
    if not re.search("[a-z]{3}", text):
        return None
    spoken = " ".join(plain_text(text).replace("-", " ").split())
    number = _AND_PART.fullmatch(spoken)
    if not number or number["part"] not in _PARTS:
        return _integer(spoken)
    written = number["whole"] or "0"
    whole = Fraction(written) if written.isdecimal() else _integer(written)
    return None if whole is None else whole + _VALUES[number["count"]] * _PARTS[number["part"]]


def in_digits(text: str, is_tail: Callable[[str], object]) -> str:
    """Write the Chinese number before a unit in digits: `12平方米` of `十二平方米`, `22%` of
    `百分之二十二`, `3比4` of `三比四`; `is_tail` knows units. Any other text stays."""
    if text.startswith("百分之"):
        return f"{in_digits(text[3:], is_tail)}%"
    if parted := _CHINESE_FRACTION.fullmatch(text):
        whole, bottom, top = (_chinese(part) if part else "" for part in parted.groups())
        return f"{whole} {top}/{bottom}"
    parts = text.split("比")
    if len(parts) > 1 and all(map(_CHINESE_NUMBER.fullmatch, parts)):
        return "比".join(str(_chinese(part)) for part in parts)
    if (found := _HALF.fullmatch(text)) and is_tail(found[2]):
        return f"{_chinese(found[1] or '零')}.5{found[2]}"
    if (found := _AND_A_PART.fullmatch(text)) and is_tail(found[2]):
        return f"{spoken_number(found[1]) or found[1]} {found[2]}"
    found = _CHINESE_QUANTITY.fullmatch(text)
    if found and (not found[2] or is_tail(found[2])):
        return f"{_chinese(found[1])}{found[2] or ''}"
    return text


def _chinese(text: str) -> int:
    total = section = digit = 0
    for character in text.removeprefix("负"):
        if character in _DIGITS:
            digit = _DIGITS[character]
        elif character in _POWERS:
            section, digit = section + (digit or 1) * _POWERS[character], 0
        else:
            total = (total + section + digit) * int(MULTIPLIERS[character])
            section = digit = 0
    last = MULTIPLIERS.get(text[-2:-1], 10)  # 一百五 is 150, 一百零五 is 105
    value = total + section + digit * int(last) // 10
    return -value if text.startswith("负") else value


def count(text: str) -> int | None:
    """Return the number that digits or words count, None for any other text."""
    number = Fraction(text) if text.isdecimal() else spoken_number(text)
    return None if number is None else int(number)


def _integer(spoken: str) -> Fraction | None:
    for word in ("million", "thousand"):
        above, scale, below = spoken.partition(f" {word}")
        if scale:
            high = _integer(re.sub("^an?$", "one", above))
            low = _integer(re.sub("^,?( and)? ", "", below) or "zero")
            if high is None or low is None or not high > 0 <= low < MULTIPLIERS[word]:
                return None
            return high * MULTIPLIERS[word] + low
    found = _SPOKEN.fullmatch(spoken)
    if not found or not any(found.group("hundreds", "tens", "small")):
        return None
    words = found.group("hundreds", "tens", "ones", "small")
    hundreds, *others = (_VALUES[word] if word else 0 for word in words)
    value = Fraction(100 * hundreds + sum(others))
    return -value if found["sign"] else value
