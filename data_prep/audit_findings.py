"""What the statistics of an audit say, as one line for each thing to mend or to know."""

from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.audit_golds import AS_IT_STANDS
from data_prep.audit_statistics import MIN_GROUP

_HIGH_SHARE = 0.5


def findings_of(statistics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return all findings, those to mend first.

    At level `mend` the data are wrong; at level `look` they are perhaps right, but good to know.
    """
    mend = [{"level": "mend", "text": text} for text in _to_mend(statistics)]
    return mend + [{"level": "look", "text": text} for text in _to_look_at(statistics)]


def _to_mend(statistics: Mapping[str, Any]) -> Iterator[str]:
    golds, repeats = statistics["golds"], statistics["repeats"]
    for reason, rows in statistics["skipped"]["by_reason"].items():
        yield from _line(rows["count"], "row", f"left out: {reason}")
    yield from _line(len(golds["unreadable"]), "gold", "that the verifier cannot read")
    different = "that can be read but not verified against the same text"
    yield from _line(len(golds["not_equal_to_itself"]), "gold", different)
    too_narrow = len(statistics["tokens"]["too_narrow"])
    yield from _line(too_narrow, "problem", "with an image too narrow to be resized")
    marks = statistics["marks"]["marks_without_images"]
    yield from _line(marks, "problem", "with an image mark but no image")
    for key, text in {
        "contradictory": "contradict each other: same question and images, different answers",
        "across_splits": "stand in more than one split",
    }.items():
        groups = repeats[key]["groups"]
        text = f"{text} ({groups} group{'s' * (groups != 1)})"
        yield from _line(repeats[key]["problems"], "problem", text)


def _to_look_at(statistics: Mapping[str, Any]) -> Iterator[str]:
    repeats, tokens = statistics["repeats"], statistics["tokens"]
    for name, form in statistics["golds"]["forms"].items():
        failed = form["asked"] - form["right"]
        if failed and name != AS_IT_STANDS:
            yield f"{failed} of {form['asked']} golds not right when written {name}"
    extra = repeats["same_question_and_images"]["extra"]
    yield from _line(extra, "problem", "with the question and images of an earlier one")
    shared = repeats["same_image"]
    several = f"used by several questions ({shared['problems']} problems)"
    yield from _line(shared["groups"], "image", several)
    numbers = len(statistics["answers"]["words_that_are_numbers"])
    yield from _line(numbers, "gold", "of type text with a number: compared letter by letter")
    for row in statistics["guessing"]["groups"]:
        if row["problems"] >= MIN_GROUP and row["majority_share"] >= _HIGH_SHARE:
            yield (
                f"{row['majority_answer']!r} is right for {100 * row['majority_share']:.0f} % of "
                f"{row['problems']} problems of task {row['task']}, type {row['type']}"
            )
    for limit, count in tokens["above"].items():
        yield from _line(count, "problem", f"with more than {limit} {tokens['above_counts']}")
    least, most = tokens["min_pixels"], tokens["max_pixels"]
    enlarged, reduced = tokens["enlarged_images"], tokens["reduced_images"]
    yield from _line(enlarged, "image", f"smaller than min_pixels={least}: enlarged")
    yield from _line(reduced, "image", f"larger than max_pixels={most}: reduced")


def _line(count: int, noun: str, text: str) -> Iterator[str]:
    """Yield a sentence about `count` things, unless there are none."""
    if count:
        yield f"{count} {noun}{'' if count == 1 else 's'} {text}"
