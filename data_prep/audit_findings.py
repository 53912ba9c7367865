"""What an audit's figures say, as one line for each thing to mend or to know."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_prep.audit_figures import MIN_GROUP
from data_prep.audit_golds import AS_IT_STANDS

Figures = Mapping[str, Any]
Level = Literal["mend", "look"]

_HIGH_SHARE = 0.5


@dataclass(frozen=True)
class Finding:
    """`mend`: the data are wrong here. `look`: right, perhaps, but good to know."""

    level: Level
    text: str


def findings_of(found: Figures) -> list[Finding]:
    """All findings, those to mend first."""
    mend = [Finding("mend", text) for text in (*_to_mend(found), *_repeats_to_mend(found))]
    return mend + [Finding("look", text) for text in (*_to_look_at(found), *_sizes(found))]


def _to_mend(found: Figures) -> Iterator[str]:
    golds, marks = found["golds"], found["marks"]
    for reason, rows in found["skipped"]["by_reason"].items():
        yield f"{_number(rows['count'], 'row')} left out: {reason}"
    if number := len(golds["unreadable"]):
        yield f"{_number(number, 'gold')} that the verifier can not read"
    if number := len(golds["not_equal_to_itself"]):
        yield f"{_number(number, 'gold')} that can be read but not verified against the same text"
    if number := len(found["tokens"]["too_narrow"]):
        yield f"{_number(number, 'problem')} with an image too narrow to be resized"
    if number := marks["marks_without_images"]:
        yield f"{_number(number, 'problem')} with an image mark but no image"


def _repeats_to_mend(found: Figures) -> Iterator[str]:
    contradictory, across = (found["repeats"][key] for key in ("contradictory", "across_splits"))
    if contradictory["groups"]:
        yield (
            f"{contradictory['problems']} problems contradict each other: same question and "
            f"images, different answers ({_number(contradictory['groups'], 'group')})"
        )
    if across["groups"]:
        groups = _number(across["groups"], "group")
        yield f"{across['problems']} problems stand in more than one split ({groups})"


def _to_look_at(found: Figures) -> Iterator[str]:
    repeats = found["repeats"]
    for name, form in found["golds"]["forms"].items():
        failed = form["asked"] - form["right"]
        if failed and name != AS_IT_STANDS:
            yield f"{failed} of {form['asked']} golds not right when written {name}"
    if number := repeats["same_question_and_images"]["extra"]:
        yield f"{_number(number, 'problem')} with the question and images of an earlier one"
    if number := repeats["same_image"]["groups"]:
        problems = repeats["same_image"]["problems"]
        yield f"{_number(number, 'image')} used by several questions ({problems} problems)"
    if number := len(found["answers"]["words_that_are_numbers"]):
        yield f"{_number(number, 'gold')} of type text with a number: compared letter by letter"
    for row in found["guessing"]["groups"]:
        if row["problems"] >= MIN_GROUP and row["majority_share"] >= _HIGH_SHARE:
            yield (
                f"{row['majority_answer']!r} is right for {100 * row['majority_share']:.0f} % of "
                f"{row['problems']} problems of task {row['task']}, type {row['type']}"
            )


def _sizes(found: Figures) -> Iterator[str]:
    tokens = found["tokens"]
    for limit, count in tokens["above"].items():
        if count:
            yield f"{_number(count, 'problem')} with more than {limit} {tokens['above_counts']}"
    if number := tokens["enlarged_images"]:
        least = tokens["min_pixels"]
        yield f"{_number(number, 'image')} smaller than min_pixels={least}: enlarged"
    if number := tokens["reduced_images"]:
        most = tokens["max_pixels"]
        yield f"{_number(number, 'image')} larger than max_pixels={most}: reduced"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
