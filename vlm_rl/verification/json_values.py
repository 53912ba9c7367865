"""JSON in a text: alone, in a fence, or between words.

Numbers are exact, and what JSON readers tolerate is refused: NaN, and a key twice in one object,
which would be two answers. Takes time in proportion to the text.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

from vlm_rl.verification.gold import Unparsable

MOST_CHARS = 65_536
"""Longer texts are refused unread."""
_OPENS = re.compile(r'[\[{](?=\s*[-\d\["{\]}])')
_FENCE = re.compile(r"\s*```\w*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)


def json_values(text: str) -> list[Any]:
    """Return the text itself as JSON, or every object and list that stands in it, in order.

    Floats are Decimal. Raises Unparsable where one begins and is broken, and if there is none.
    """
    if len(text) > MOST_CHARS:
        raise Unparsable("refused: long")
    fenced = _FENCE.fullmatch(text)
    whole = (fenced[1] if fenced else text).strip()
    if not whole.startswith(("[", "{")):
        try:
            return [_DECODER.decode(whole)]
        except (ValueError, ArithmeticError, RecursionError):
            pass  # words, in which JSON may stand
    found = list(_inside(text))
    if not found:
        raise Unparsable("no JSON")
    return found


def _inside(text: str) -> Iterator[Any]:
    end = 0
    while opened := _OPENS.search(text, end):
        try:
            value, end = _DECODER.raw_decode(text, opened.start())
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise Unparsable("broken JSON") from error
        yield value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once_each, parse_float=Decimal, parse_constant=_refuse
)
