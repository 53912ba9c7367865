"""Times of day: `3:05 pm`, `15:05`, `7 o'clock`, `10时25分`, `half past three`."""

import re
from typing import NamedTuple

from vlm_rl.verification.notation import open_text
from vlm_rl.verification.spoken import count

_HALF = r"(?P<half>[ap])\.?\s?m\.?"
_FORMS = (
    re.compile(rf"(?P<hour>\d{{1,2}}):(?P<minute>\d\d)(?::(?P<second>\d\d))?\s*(?:{_HALF})?", re.I),
    re.compile(r"(?P<half>[上下]午|[早晚]上)\s*(?P<hour>\d{1,2}):(?P<minute>\d\d)"),
    re.compile(rf"(?P<hour>\d{{1,2}})\s*(?:{_HALF}|o'? ?clock)", re.I),
    re.compile(
        r"(?:(?P<half>[上下]午|[早晚]上)|中午)?(?P<hour>\d{1,2})[时点](?:(?P<minute>\d{1,2}|半)分?|整)?"
    ),
)
_SPOKEN = re.compile(
    r"(?:an? )?(half|quarter|[\w-]+ minutes?|[\w-]+) (past|after|to|before|of) (\w+)"
    r"(?: o'? ?clock)?",
    re.I,
)
_WHOLE_HOUR = re.compile(r"(\w+) o'? ?clock", re.I)
_HALVES = {"上午": "a", "早上": "a", "下午": "p", "晚上": "p"}
_MINUTES = {"half": 30, "quarter": 15, "半": 30}
_HALF_DAY_S = 12 * 3600


class TimeOfDay(NamedTuple):
    """Seconds on the dial, and the half of the day: `a`, `p` or an empty text."""

    seconds: int
    half: str


def clock(text: str) -> TimeOfDay | None:
    """Return a time of day, None for any other text."""
    text = open_text(text)
    for form in _FORMS:
        if time := form.fullmatch(text):
            return _time(**{part: text for part, text in time.groupdict().items() if text})
    return _spoken(text)


def _time(hour: str, minute: str = "0", second: str = "0", half: str = "") -> TimeOfDay | None:
    half = _HALVES.get(half, half.lower())
    hours, minutes, seconds = int(hour), _MINUTES.get(minute) or int(minute), int(second)
    if minutes > 59 or seconds > 59 or hours > 24 or (half and not 1 <= hours <= 12):
        return None
    return TimeOfDay(3600 * hours + 60 * minutes + seconds, half)


def same_time(gold: TimeOfDay, given: TimeOfDay) -> bool:
    """Return whether both are the same time; a half of the day that only one names is none."""
    if gold.seconds == given.seconds and "" in (gold.half, given.half):
        return True
    return _second_of_day(gold) == _second_of_day(given)


def _spoken(text: str) -> TimeOfDay | None:
    if (whole := _WHOLE_HOUR.fullmatch(text)) and (hour := count(whole[1].lower())):
        return TimeOfDay(3600 * hour, "") if hour <= 12 else None
    time = _SPOKEN.fullmatch(text)
    if not time:
        return None
    named = re.sub(" minutes?$", "", time[1].lower())
    minutes, hours = _MINUTES.get(named) or count(named), count(time[3].lower())
    if minutes is None or hours is None or not (0 < minutes < 60 and 1 <= hours <= 12):
        return None
    if time[2].lower() in ("past", "after"):
        return TimeOfDay(3600 * hours + 60 * minutes, "")
    return TimeOfDay(3600 * (hours - 1 or 12) + 60 * (60 - minutes), "")  # quarter to one: 12:45


def _second_of_day(time: TimeOfDay) -> int:
    if not time.half:
        return time.seconds
    return time.seconds % _HALF_DAY_S + (_HALF_DAY_S if time.half == "p" else 0)
