"""What the statistics of an audit say, as one line for each thing to mend or to know."""

from collections.abc import Mapping
from typing import Any

from data_prep.audit_statistics import MIN_GROUP
from vlm_rl.rewards.gold_forms import AS_IT_STANDS

_HIGH_SHARE = 0.5
_GUESSABLE = "problems of task {task}, type {type} ({majority_share:.0%}: {majority_answer!r})"


def findings_of(statistics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return all findings, those to mend first: what occurs, and how often.

    At level `mend` the data are wrong; at level `look` they are perhaps right, but good to know.
    """
    golds, repeats, tokens = statistics["golds"], statistics["repeats"], statistics["tokens"]
    again, odd = repeats["same_question_and_images"], repeats["contradictory"]
    leaks, shared = repeats["across_splits"], repeats["same_image"]
    numbers = statistics["answers"]["words_that_are_numbers"]
    left_out = statistics["skipped"]["by_reason"].items()
    mend = {f"rows left out, {reason}": rows["count"] for reason, rows in left_out} | {
        "golds that the verifier cannot read": len(golds["unreadable"]),
        "golds that can be read but do not equal themselves": len(golds["not_equal_to_itself"]),
        "problems with an image too narrow to be resized": len(tokens["too_narrow"]),
        "problems with an image mark but no image": statistics["marks"]["marks_without_images"],
        "contradictory problems, with the same question and images but different answers "
        f"(groups: {odd['groups']})": odd["problems"],
        f"problems in more than one split (groups: {leaks['groups']})": leaks["problems"],
    }
    look = {
        f"golds not right when written {name} (of {form['asked']})": len(form["failures"])
        for name, form in golds["forms"].items()
        if name != AS_IT_STANDS
    }
    look |= {
        "problems with the question and images of an earlier one": again["extra"],
        f"images used by several questions (problems: {shared['problems']})": shared["groups"],
        "golds of type text with a number, compared letter by letter": len(numbers),
    }
    look |= {
        _GUESSABLE.format_map(group): group["problems"]
        for group in statistics["guessing"]["groups"]
        if group["problems"] >= MIN_GROUP and group["majority_share"] >= _HIGH_SHARE
    }
    above = tokens["above"].items()
    look |= {f"problems with more than {n} {tokens['above_counts']}": count for n, count in above}
    look |= {
        f"images enlarged to min_pixels={tokens['min_pixels']}": tokens["enlarged_images"],
        f"images reduced to max_pixels={tokens['max_pixels']}": tokens["reduced_images"],
    }
    return [
        {"level": level, "text": f"{text}: {count}"}
        for level, counts in (("mend", mend), ("look", look))
        for text, count in counts.items()
        if count
    ]
