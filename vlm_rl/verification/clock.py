"""Times of day: `3:05 pm`, `15:05`, `7 o'clock`, `10时25分`, `half past three`."""

import re
from typing import NamedTuple

from vlm_rl.verification.notation import open_text
from vlm_rl.verification.spoken import spoken_number

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:([ap])\.?\s?m\.?)?", re.I)
_HOUR = re.compile(r"(\d{1,2})\s*(?:([ap])\.?\s?m\.?|o'? ?clock)", re.I)
_CHINESE = re.compile(r"(上午|下午|早上|晚上|中午)?(\d{1,2})(?:时|点)(?:(\d{1,2})分?|(半)|整)?")
_SPOKEN = re.compile(r"(half|quarter|[\w-]+ minutes?|[\w-]+) (past|to) (\w+)", re.I)
_HALF_DAY_S = 12 * 3600


class TimeOfDay(NamedTuple):
    """Seconds on the dial, and the half of the day: `a`, `p` or an empty text."""

    seconds: int
    half: str


def clock(text: str) -> TimeOfDay | None:
    """Return a time of day, None for any other text."""
    text = open_text(text)
    if time := _CLOCK.fullmatch(text):
        hours, minutes, seconds, half = time.groups()
    elif time := _HOUR.fullmatch(text):
        hours, minutes, seconds, half = time[1], "0", "0", time[2]
    elif time := _CHINESE.fullmatch(text):
        hours, seconds = time[2], "0"
        minutes = "30" if time[4] else time[3] or "0"
        half = {"上午": "a", "早上": "a", "下午": "p", "晚上": "p"}.get(time[1] or "", "")
    else:
        return _spoken(text)
    if int(minutes) > 59 or int(seconds or 0) > 59 or int(hours) > 24:
        return None
    if half and not 1 <= int(hours) <= 12:
        return None
    return TimeOfDay(
        3600 * int(hours) + 60 * int(minutes) + int(seconds or 0), (half or "").lower()
    )


def same_time(gold: TimeOfDay, given: TimeOfDay) -> bool:
    """Return whether both are the same time; a half of the day that only one names is none."""
    if gold.seconds == given.seconds and "" in (gold.half, given.half):
        return True
    return _second_of_day(gold) == _second_of_day(given)


def _spoken(text: str) -> TimeOfDay | None:
    time = _SPOKEN.fullmatch(text)
    if not time:
        return None
    counted = time[1].lower().removesuffix(" minutes").removesuffix(" minute")
    named = {"half": 30, "quarter": 15}
    minutes = named.get(counted, int(counted) if counted.isdigit() else spoken_number(counted))
    hour = int(time[3]) if time[3].isdigit() else spoken_number(time[3])
    if minutes is None or hour is None or not (0 < minutes < 60 and 1 <= hour <= 12):
        return None
    sign = 1 if time[2].lower() == "past" else -1
    return TimeOfDay((3600 * int(hour) + sign * 60 * int(minutes)), "")


def _second_of_day(time: TimeOfDay) -> int:
    if not time.half:
        return time.seconds
    return time.seconds % _HALF_DAY_S + (_HALF_DAY_S if time.half == "p" else 0)
