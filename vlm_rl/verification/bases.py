"""Numbers in a named base, `52_8` or `101_{\\text{two}}`, which are compared by their digits."""

import re
from typing import NamedTuple

from vlm_rl.verification.gold import Finding
from vlm_rl.verification.notation import open_text
from vlm_rl.verification.spoken import spoken_number

_IN_BASE = re.compile(
    r"([+-]?)[({]*(\d{1,3}(?:,\d{3})+|(?=[A-Z]*\d)[\dA-Z]+)[)}]*_\{?\(?(\w+)\)?\}?"
)
_WITHOUT_BASE = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|[\dA-Z]+)")


class _NumberInBase(NamedTuple):
    sign: str
    digits: str
    base: int


def compare_bases(gold: str, prediction: str) -> Finding | None:
    """Return whether both are the same digits in the same base, None if neither names a base.

    A problem that asks for a number in some base asks for its digits, so values are not compared:
    42 does not answer `52_8`. Bare digits are right for a gold with a base, which the problem has
    then named. An answer with a base is right for a gold without only if the base is ten.
    """
    expected, given = _in_base(gold), _in_base(prediction)
    if expected is None and given is None:
        return None
    if expected is None:
        same = given is not None and given.base == 10 and _without_base(gold) == given[:2]
    elif given is None:
        same = _without_base(prediction) == expected[:2]
    else:
        same = expected == given
    return Finding(same, "same digits and base" if same else "other digits or base")


def names_base(text: str) -> bool:
    """Return whether the text is a number with its base."""
    return _in_base(text) is not None


def _in_base(text: str) -> _NumberInBase | None:
    number = _IN_BASE.fullmatch(re.sub(r"\s", "", open_text(text)))
    if not number:
        return None
    written = number[3]
    base = int(written) if re.fullmatch("[0-9]{1,3}", written) else spoken_number(written)
    return _NumberInBase(*_sign_and_digits(number), base) if base is not None else None


def _without_base(text: str) -> tuple[str, str] | None:
    number = _WITHOUT_BASE.fullmatch(re.sub(r"\s", "", open_text(text)))
    return _sign_and_digits(number) if number else None


def _sign_and_digits(number: re.Match[str]) -> tuple[str, str]:
    digits = number[2].replace(",", "").lstrip("0")
    return number[1].removeprefix("+"), digits or "0"
