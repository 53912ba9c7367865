"""Times of day and lengths of time, counted in exact seconds."""

import re
from fractions import Fraction

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.gold import Finding, Gold
from vlm_rl.verification.notation import open_text, plain_text
from vlm_rl.verification.units import canonical_unit

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([ap])?", re.I)
_HOUR = re.compile(r"(\d{1,2})\s*(?:([ap])|o'clock)", re.I)
_PART = re.compile(r"(\d+(?:\.\d+)?|\d+/\d+)\s*([A-Za-z]+|[\u4e00-\u9fff]+)[\s,]*(?:and\s+)?")
_HALF_DAY = 12 * 3600
_UNITS = {"week": 7 * 86400, "day": 86400, "h": 3600, "min": 60, "s": 1}


def match_time(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """The same time of day or the same length of time; words, such as dates, as words.

    `3:05 pm` is 15:05, and a half of the day that only one of the two names is no mistake. `1:30`
    beside a length of time counts that one's units: for `90 min` hours and minutes.
    """
    if plain_text(gold.answer) == plain_text(prediction):
        return Finding(True, "same words")
    texts = [_unmarked(text) for text in (gold.answer, prediction)]
    lengths = [_length(text, other) for text, other in zip(texts, texts[::-1], strict=True)]
    if None not in lengths:
        return _compare(lengths[0] == lengths[1], "length of time")
    clocks = [_clock(text) for text in texts]
    if clocks[0] is not None and clocks[1] is not None:
        return _compare(_same_clock(clocks[0], clocks[1]), "time of day")
    return Finding(False, "other words")


def _compare(same: bool, kind: str) -> Finding:
    return Finding(same, f"same {kind}" if same else f"another {kind}")


def _unmarked(text: str) -> str:
    """`3:05 p.m.` as `3:05 p`: dots and the m are written in many ways."""
    text = open_text(text)
    return re.sub(r"(?<=[\d\s])([ap])\.?\s?m\.?$", r"\1", text, flags=re.I)


def _clock(text: str) -> tuple[int, str] | None:
    """Seconds on the dial as written, and `a`, `p` or `` for the half of the day."""
    if found := _CLOCK.fullmatch(text):
        hours, minutes, seconds, half = found.groups()
    elif found := _HOUR.fullmatch(text):
        hours, minutes, seconds, half = found[1], "0", "0", found[2]
    else:
        return None
    if int(minutes) > 59 or int(seconds or 0) > 59:
        return None
    if half and not 1 <= int(hours) <= 12:
        return None
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds or 0), (half or "").lower()


def _same_clock(gold: tuple[int, str], prediction: tuple[int, str]) -> bool:
    if gold[0] == prediction[0] and "" in (gold[1], prediction[1]):
        return True
    return _of_day(*gold) == _of_day(*prediction)


def _of_day(seconds: int, half: str) -> int:
    if not half:
        return seconds
    return seconds % _HALF_DAY + (_HALF_DAY if half == "p" else 0)


def _length(text: str, other: str) -> Fraction | None:
    """Seconds; a form with colons or without unit takes its units from the `other` answer."""
    parts = _parts(text)
    if parts:
        return sum((number * _UNITS[unit] for number, unit in parts), Fraction(0))
    units = [unit for _, unit in _parts(other)]
    if not units:
        return None
    if len(units) == 1 and re.fullmatch(r"\d+(?:\.\d+)?", text):
        return Fraction(text) * _UNITS[units[0]]
    if not re.fullmatch(r"\d+(?::\d{2}){1,2}", text):
        return None
    fields = [int(field) for field in text.split(":")]
    last = 1 if units[-1] == "s" or len(fields) == 3 else 60
    return Fraction(sum(f * last * 60**power for power, f in enumerate(fields[::-1])))


def _parts(text: str) -> list[tuple[Fraction, str]]:
    """`1 h 30 min` in (number, unit) pairs, largest unit first; empty for all other text."""
    found = list(_PART.finditer(text))
    if not found or "".join(part[0] for part in found) != text:
        return []
    parts = [(Fraction(part[1]), canonical_unit(part[2])) for part in found]
    sizes = [_UNITS.get(unit, 0) for _, unit in parts]
    falling = all(a > b for a, b in zip(sizes, [*sizes[1:], 0], strict=True))
    return parts if falling else []
