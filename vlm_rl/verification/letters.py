"""Capitals kept apart from small letters, which math-verify takes for the same variables."""

import re

from vlm_rl.verification.gold import Unparsable

_SKIPPED = (
    r"\\(?:text\w*|math\w+|mbox|hbox|operatorname|begin|end)\s*\{[^{}]*\}"  # no variables in them
)
_LETTER = re.compile(rf"(?:{_SKIPPED})|(\\[A-Za-z]+|[A-Za-z])")
_FREE = (
    "abcfghjklmnpqrstuvwxyz"  # without e, i, d and o, which math-verify reads in ways of its own
)


def with_distinct_letters(*texts: str) -> list[str]:
    """The texts with each capital whose small letter also occurs in them renamed, alike in all, to
    a letter that occurs nowhere: `\\frac{R}{r}` becomes `\\frac{a}{r}`."""
    used = {name for text in texts for name in _LETTER.findall(text) if name}
    taken = {name.casefold() for name in used}
    free = iter([letter for letter in _FREE if letter not in taken])
    renamed: dict[str, str] = {}
    for name in sorted(used):
        small = name.lower()
        if small != name and small in used:
            renamed[name] = next(free, "")
    if not all(renamed.values()):
        raise Unparsable("refused: too many letters")
    return [_LETTER.sub(lambda found: _new_name(found, renamed), text) for text in texts]


def _new_name(found: re.Match[str], renamed: dict[str, str]) -> str:
    name = found[1]
    if name is None or name not in renamed:
        return found[0]
    return f" {renamed[name]} " if name.startswith("\\") else renamed[name]
