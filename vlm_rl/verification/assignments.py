"""Several values with their names: `x = 1, y = 2`."""

import re
from typing import NamedTuple

from vlm_rl.verification.notation import open_text, split_top

SEPARATOR = re.compile(r"[;]|,(?!(?<=\d,)\d{3}(?!\d))|\bor\b|\band\b")
"""What stands between listed values: no comma within thousands."""
_ASSIGNMENT = re.compile(r"((?:[A-Za-z]|\\[a-z]+)(?:_\{\w+\})?)\s*=\s*([^=]+)")


class Assignment(NamedTuple):
    """`name` is as comparable: a numbered x, a root of one equation, is only `x`, since numbers are
    given to roots at will."""

    name: str
    value: str


def assignments(text: str) -> list[Assignment] | None:
    """The two or more named values of a text in which nothing else stands, None for all others."""
    found = [_ASSIGNMENT.fullmatch(part) for part in split_top(open_text(text), SEPARATOR)]
    named = [Assignment(_name(part[1]), part[2].strip()) for part in found if part]
    return named if len(named) == len(found) > 1 else None


def _name(written: str) -> str:
    return "x" if re.fullmatch(r"x_\{\w+\}", written) else written
