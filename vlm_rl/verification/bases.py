"""Numbers in a named base, `52_8` or `101_{\\text{two}}`, which are compared by their digits."""

import re
from typing import NamedTuple

from vlm_rl.verification.gold import Finding
from vlm_rl.verification.notation import open_text
from vlm_rl.verification.spoken import count

_NUMBER = re.compile(
    r"([+-]?)[({]*(\d{1,3}(?:,\d{3})+|[\dA-Z]+)[)}]*"
    r"(?:_\{?\(?(\d{1,3}|[^\W\d_]+)\)?\}?)?"
)


class _Number(NamedTuple):
    sign: str
    digits: str
    base: int | None


def compare_bases(gold: str, prediction: str) -> Finding | None:
    """Return whether both are the same digits in the same base, None if neither names a base.

    A problem that asks for a number in some base asks for its digits, so values are not compared:
    42 does not answer `52_8`. Bare digits are right for a gold with a base, which the problem has
    then named. An answer with a base is right for a gold without only if the base is ten.
    """
    if not (names_base(gold) or names_base(prediction)):
        return None
    expected, given = _number(gold), _number(prediction)
    same = (
        expected is not None
        and given is not None
        and expected[:2] == given[:2]
        and given.base in (expected.base or 10, None)
    )
    return Finding(same, "same digits and base" if same else "other digits or base")


def names_base(text: str) -> bool:
    """Return whether the text is a number with its base."""
    number = _number(text)
    return number is not None and number.base is not None


def _number(text: str) -> _Number | None:
    number = _NUMBER.fullmatch(re.sub(r"\s", "", open_text(text)))
    if not number:
        return None
    base = count(number[3] or "")
    if number[3] and (base is None or not re.search(r"\d", number[2])):
        return None  # `A_1` is a name
    digits = number[2].replace(",", "").lstrip("0")
    return _Number(number[1].removeprefix("+"), digits or "0", base)
