"""Each length term once more, in plain floats from its formula, one completion at a time.

An oracle gets the term's arguments, the completions of one group as `Seen`, and the problem's
`meta`; what it returns of an unscored completion is not compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A completion as a formula sees it; `end` is the place of the tag that ends the thinking."""

    length: int
    right: bool
    scored: bool
    cut: bool
    formed: bool
    entropies: Sequence[float]
    end: int | None


Oracle = Callable[[Mapping[str, Any], Sequence[Seen], Mapping[str, Any]], list[float]]


def _soft_overlong(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    free = a["max_completion_tokens"] - a["buffer_tokens"]
    values = []
    for one in group:
        if one.length <= free:
            values.append(0.0)
        elif one.length <= a["max_completion_tokens"]:
            values.append((free - one.length) / a["buffer_tokens"])
        else:
            values.append(-1.0)
    return values


def _trapezoid(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    values = []
    for one in group:
        if one.length <= a["least"] or one.length >= a["most"]:
            inside = a["low"] <= one.length <= a["high"]
            values.append(1.0 if inside else 0.0)
        elif one.length < a["low"]:
            values.append((one.length - a["least"]) / (a["low"] - a["least"]))
        elif one.length > a["high"]:
            values.append((a["most"] - one.length) / (a["most"] - a["high"]))
        else:
            values.append(1.0)
    return values


def _gr3(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    lengths = [one.length for one in group if one.scored]
    mean = fmean(lengths) if lengths else 0.0
    return [1 / (1 + a["alpha"] * (one.length / mean if mean > 0 else 1)) for one in group]


def _kimi(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    lengths = [one.length for one in group if one.scored]
    values = []
    for one in group:
        if not lengths or min(lengths) == max(lengths):
            values.append(0.0)
            continue
        value = 0.5 - (one.length - min(lengths)) / (max(lengths) - min(lengths))
        values.append(value if one.right else min(0.0, value))
    return values


def _conciser(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    for one in group:
        if one.scored and not one.right:
            return [0.0] * len(group)
    if not any(one.scored for one in group):
        return [0.0] * len(group)
    return [max(0.0, 1 - one.length / a["max_completion_tokens"]) for one in group]


def _laser(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    values = []
    for one in group:
        value = 0.0
        if not one.right:
            value = a["wrong"]
        elif one.length <= a["target"] and a["mode"] in ("reward", "hybrid"):
            value = a["bonus"]
        elif one.length > a["target"] and a["mode"] in ("penalty", "hybrid"):
            value = -a["bonus"]
        values.append(value)
    return values


def _l1_exact(a: Mapping[str, Any], group: Sequence[Seen], meta: Mapping[str, Any]) -> Any:
    return [-a["alpha"] * abs(meta[a["key"]] - one.length) for one in group]


def _l1_max(a: Mapping[str, Any], group: Sequence[Seen], meta: Mapping[str, Any]) -> Any:
    raw = [a["alpha"] * (meta[a["key"]] - one.length) + a["delta"] for one in group]
    return [0.0 if value < 0 else 1.0 if value > 1 else value for value in raw]


def _cosine(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    values = []
    for one in group:
        short, long = (
            (a["right_short"], a["right_long"])
            if one.right
            else (a["wrong_short"], a["wrong_long"])
        )
        if one.length >= a["max_completion_tokens"]:
            values.append(long)
            continue
        angle = math.pi * one.length / a["max_completion_tokens"]
        values.append(short - (short - long) * (1 - math.cos(angle)) / 2)
    return values


def _format_length(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    values = []
    for one in group:
        x, peak = min(one.length / a["max_completion_tokens"], 1.0), a["peak"]
        ratio = (x - peak) / (1 - peak)
        length = 1 - (1 - x / peak) ** 2 if x <= peak else 1 - 2 * ratio**2
        form = 1.0 if one.formed else 0.0
        values.append(form + length if one.formed else min(0.0, form + length))
    return values


def _range(a: Mapping[str, Any], group: Sequence[Seen], meta: Mapping[str, Any]) -> Any:
    low, high = meta[a["key"]]
    values = []
    for one in group:
        if one.length < low:
            values.append(one.length / low)
        elif one.length <= high:
            values.append(1.0)
        else:
            values.append(max(0.0, (a["max_tokens"] - one.length) / (a["max_tokens"] - high)))
    return values


def _unfinished(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    return [a["kept"] if one.cut else 1.0 for one in group]


def _accuracy_limit(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    scored = [one for one in group if one.scored]
    ratio = sum(one.right for one in scored) / len(scored) if scored else 0.0
    limit = a["easy_limit"] if ratio >= a["easy_from"] else a["limit"]
    return [1.0 if one.length <= limit else 0.0 for one in group]


def _pear(a: Mapping[str, Any], group: Sequence[Seen], _: Mapping[str, Any]) -> Any:
    values = []
    for one in group:
        end = one.length if one.end is None else one.end
        thinking = fmean(one.entropies[:end]) if end else 0.0
        answer = fmean(one.entropies[end:]) if end < one.length else 0.0
        penalty = max(0.0, thinking - a["alpha"] * answer)
        values.append(min(1.0, 1.0 - penalty) - 1.0 if one.right else 0.0)
    return values


ORACLES: dict[str, Oracle] = {
    "SoftOverlong": _soft_overlong,
    "LengthTrapezoid": _trapezoid,
    "GR3": _gr3,
    "KimiLength": _kimi,
    "ConciseR": _conciser,
    "LASER": _laser,
    "L1Exact": _l1_exact,
    "L1Max": _l1_max,
    "CosineLength": _cosine,
    "FormatLength": _format_length,
    "LengthRange": _range,
    "Unfinished": _unfinished,
    "AccuracyLimit": _accuracy_limit,
    "PEAR": _pear,
}
"""By the name of the class."""
