"""Numbers in a named base: `52_8`, `2A_{16}`, `101_{\\text{two}}`."""

import re
from typing import NamedTuple

from vlm_rl.verification.gold import Finding
from vlm_rl.verification.notation import open_text
from vlm_rl.verification.number_words import spoken_number

_WRITTEN = re.compile(
    r"([+-]?)[({]*(\d{1,3}(?:,\d{3})+|(?=[A-Z]*\d)[\dA-Z]+)[)}]*_\{?\(?(\w+)\)?\}?"
)
_BARE = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|[\dA-Z]+)")


class _Written(NamedTuple):
    sign: str
    digits: str
    base: int


def compare_bases(gold: str, prediction: str) -> Finding | None:
    """Whether both are the same digits in the same base; None where neither names a base.

    A problem that wants a number in some base wants its digits, so values are not compared: 42 is
    no answer for `52_8`. Bare digits are right for a gold with a base, which the problem has then
    named; an answer with a base is right for a gold without only if the base is ten.
    """
    expected, given = _written(gold), _written(prediction)
    if expected is None and given is None:
        return None
    if expected is None:
        same = given is not None and given.base == 10 and _bare(gold) == given[:2]
    elif given is None:
        same = _bare(prediction) == expected[:2]
    else:
        same = expected == given
    return Finding(same, "same digits and base" if same else "other digits or base")


def names_base(text: str) -> bool:
    return _written(text) is not None


def _written(text: str) -> _Written | None:
    found = _WRITTEN.fullmatch(re.sub(r"\s", "", open_text(text)))
    if not found:
        return None
    base = int(found[3]) if re.fullmatch("[0-9]{1,3}", found[3]) else spoken_number(found[3])
    return _Written(*_digits(found), base) if base is not None else None


def _bare(text: str) -> tuple[str, str] | None:
    found = _BARE.fullmatch(re.sub(r"\s", "", open_text(text)))
    return _digits(found) if found else None


def _digits(found: re.Match[str]) -> tuple[str, str]:
    digits = found[2].replace(",", "").lstrip("0")
    return found[1].removeprefix("+"), digits or "0"
