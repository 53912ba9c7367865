"""An audit as one page of HTML with everything in it: no script, no file beside it, no network."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.audit_figures import MIN_GROUP, different_pictures
from data_prep.audit_findings import Finding
from data_prep.audit_html import Html, details, element, figure, joined, table, thumbnail
from data_prep.audit_plots import plot_answers, plot_images, plot_prompts
from data_prep.audit_reading import Entry, Picture
from data_prep.audit_tokens import PROMPT_LIMITS
from vlm_rl.rewards.accuracy import gold_of

Figures = Mapping[str, Any]

_NUM_DRAWN = 12
_NUM_OFFENDERS = 4
_MOST_ROWS = 100
_MOST_GROUPS = 30
_MOST_CHARACTERS = 400
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fafafa; margin: 0 auto;
  max-width: 1080px; padding: 1.5em; }
h1 { font-size: 1.6em; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25em; margin-top: 2.2em; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05em; margin-bottom: .3em; }
img { max-width: 100%; }
table { border-collapse: collapse; background: #fff; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: .25em .8em; border-bottom: 1px solid #eee;
  overflow-wrap: anywhere; }
th { background: #f2f2f2; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: .5em 0; }
.tiles, .cards { display: grid; gap: .8em; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.cards { grid-template-columns: repeat(auto-fill, minmax(235px, 1fr)); }
.tile, .card { background: #fff; border: 1px solid #e4e4e4; border-radius: 6px; padding: .6em .8em; }
.tile b { display: block; font-size: 1.35em; }
.card { font-size: 13px; overflow-wrap: anywhere; } .card img { display: block; margin: 0 auto .5em; }
.card p { margin: .3em 0; white-space: pre-line; }
.quiet { color: #777; } .bad, .mend { color: #b3261e; } .look { color: #8a5a00; }
.findings { background: #fff; border: 1px solid #e4e4e4; border-radius: 6px; padding: .6em 1em .6em 2em; }
details { margin: .5em 0; } summary { cursor: pointer; color: #1a5fb4; }
"""  # noqa: E501


def page_of(
    source: str, found: Figures, findings: Sequence[Finding], entries: Sequence[Entry], seed: int
) -> str:
    """The whole page; `seed` draws the problems that are shown."""
    body = element(
        "body",
        element("h1", f"Audit of {source}"),
        *(element("p", line, kind="quiet") for line in found["columns"]),
        element("p", f"Splits: {_counts(found['splits'])}", kind="quiet"),
        _tiles(found),
        _findings(findings),
        *_golds(found["golds"]),
        *_answers(found),
        *_images(found, entries),
        *_tokens(found),
        *_repeats(found["repeats"]),
        *_skipped(found["skipped"]),
        *_drawn(entries, seed),
    )
    title = element("title", f"Audit of {source}")
    head = element("head", Html('<meta charset="utf-8">'), title, element("style", Html(_STYLE)))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def _tiles(found: Figures) -> Html:
    forms, visual = found["golds"]["forms"], found["tokens"]["visual_by_problem"]
    as_it_stands = next(iter(forms.values()))
    above = found["tokens"]["above"][PROMPT_LIMITS[0]]
    tiles = {
        "problems": f"{found['problems']:,}",
        "rows left out": f"{found['skipped']['count']:,}",
        "golds that verify": f"{100 * as_it_stands['right_frac']:.1f} %",
        "different images": f"{found['images']['different']:,}",
        "visual tokens, median": f"{visual['p50']:,}" if visual else "-",
        f"above {PROMPT_LIMITS[0]:,} tokens": f"{above:,}",
    }
    parts = (element("div", element("b", v), name, kind="tile") for name, v in tiles.items())
    return element("div", *parts, kind="tiles")


def _findings(findings: Sequence[Finding]) -> Html:
    if not findings:
        return element("p", "Nothing to mend and nothing odd was found.")
    words = {"mend": "To mend: ", "look": "To know: "}
    lines = (element("li", element("b", words[f.level], kind=f.level), f.text) for f in findings)
    return joined([element("h2", "Findings"), element("ul", *lines, kind="findings")])


def _golds(golds: Figures) -> Iterator[Html]:
    yield element("h2", "Golds and the verifier")
    yield element(
        "p",
        "Each gold is checked against itself. Those that are right as they stand are also written "
        "as a model might write them; the count is of golds that can be written so.",
    )
    yield table(
        ["form", "golds", "right", "%"],
        [
            [name, form["asked"], form["right"], _percent(form["right_frac"])]
            for name, form in golds["forms"].items()
        ],
    )
    for name, key in {
        "can not be read": "unreadable",
        "do not verify against themselves": "not_equal_to_itself",
    }.items():
        if golds[key]:
            yield element("h3", f"Golds that {name} ({len(golds[key])})")
            yield _failures(golds[key])
    for name, form in list(golds["forms"].items())[1:]:
        if form["failures"]:
            summary = f"{len(form['failures'])} not right when written {name}"
            shown = form["failures"][:_MOST_ROWS]
            yield details(summary, _failures(shown), _rest(form["failures"], shown))


def _failures(failures: Sequence[Figures]) -> Html:
    return table(
        ["problem", "gold", "type", "written", "verdict", "rule"],
        [
            [f["uid"], f["gold"], f["answer_type"], f["written"], f["verdict"], f["rule"]]
            for f in failures
        ],
    )


def _answers(found: Figures) -> Iterator[Html]:
    answers, guessing = found["answers"], found["guessing"]
    yield element("h2", "Answers")
    yield figure(plot_answers(found), "answer types, frequent answers, lengths")
    yield element("h3", "Types, given and inferred")
    yield table(
        ["given", "inferred", "problems"],
        [[p["given"], p["inferred"], p["count"]] for p in answers["given_and_inferred"]],
    )
    yield element("h3", "What guessing alone would give")
    yield element("p", _guessing_line(guessing))
    headings = ["problems", "different answers", "most frequent", "share, %"]
    yield table(
        ["type", *headings],
        [[kind, *_majority(one)] for kind, one in guessing["types"].items()],
    )
    groups = guessing["groups"]
    shown = groups[:_MOST_GROUPS]
    rows = [[one["task"], one["type"], *_majority(one)] for one in shown]
    by_task = table(["task", "type", *headings], rows)
    yield details("by task and type", by_task, _rest(groups, shown))


def _majority(group: Figures) -> list[object]:
    counts = [group["problems"], group["different_answers"]]
    return [*counts, group["majority_answer"], _percent(group["majority_share"])]


def _guessing_line(guessing: Figures) -> str:
    by_type, by_task = guessing["by_type"], guessing["by_task_and_type"]
    line = (
        f"Always the most frequent answer of the type is right for {100 * by_type['share']:.1f} % "
        f"of {by_type['problems']} problems"
    )
    if by_task["problems"]:
        line += (
            f"; of the task and type, for {100 * by_task['share']:.1f} % of the "
            f"{by_task['problems']} where these have at least {MIN_GROUP} problems"
        )
    if guessing["random_choice"] is not None:
        line += (
            f"; a letter at random, for {100 * guessing['random_choice']:.1f} % of the "
            f"{guessing['problems_with_choices']} with choices"
        )
    return f"{line}."


def _images(found: Figures, entries: Sequence[Entry]) -> Iterator[Html]:
    images, marks = found["images"], found["marks"]
    yield element("h2", "Images")
    yield table(
        ["images and marks", "problems"],
        [
            ["as many marks as images", marks["as_many_marks_as_images"]],
            ["images without marks (put first)", marks["images_without_marks"]],
            ["marks without images (a mark is then text)", marks["marks_without_images"]],
            ["text only", marks["text_only"]],
            *(
                [f"with {n} image{'s' * (n != '1')}", count]
                for n, count in marks["images_per_problem"].items()
            ),
        ],
    )
    if not images["different"]:
        return
    yield element(
        "p",
        f"{images['used']} images are used, {images['different']} are different. "
        f"Formats: {_counts(images['formats'])}. Modes: {_counts(images['modes'])}.",
    )
    yield figure(plot_images(found), "image sizes and visual tokens")
    names = {"width": "width, px", "height": "height, px", "pixels": "area, px", "bytes": "bytes"}
    yield _distributions({title: images[name] for name, title in names.items()})
    yield from _offenders(entries)


def _offenders(entries: Sequence[Entry]) -> Iterator[Html]:
    users: dict[str, str] = {}
    for entry in entries:
        for picture in entry.pictures:
            users.setdefault(picture.digest, entry.problem.uid)
    pictures = different_pictures(entries)
    by_area = sorted(pictures, key=lambda p: p.width * p.height)
    by_ratio = sorted(pictures, key=_elongation)
    groups = {
        "Largest": by_area[: -_NUM_OFFENDERS - 1 : -1],
        "Smallest": by_area[:_NUM_OFFENDERS],
        "Longest in one direction": by_ratio[: -_NUM_OFFENDERS - 1 : -1],
    }
    for title, worst in groups.items():
        yield element("h3", title)
        yield element("div", *(_image_card(p, users[p.digest]) for p in worst), kind="cards")


def _elongation(picture: Picture) -> float:
    sides = picture.width, picture.height
    return max(sides) / min(sides)


def _image_card(picture: Picture, uid: str) -> Html:
    size = f"{picture.width} x {picture.height}, {picture.format} {picture.mode}"
    more = f"{picture.num_bytes:,} bytes, ratio {_elongation(picture):.1f}"
    lines = (element("p", text) for text in (size, more))
    quiet = element("p", uid, kind="quiet")
    return element("div", thumbnail(picture.source), *lines, quiet, kind="card")


def _tokens(found: Figures) -> Iterator[Html]:
    tokens = found["tokens"]
    yield element("h2", "Tokens")
    limits = f"min_pixels={tokens['min_pixels']}, max_pixels={tokens['max_pixels']}."
    yield element("p", f"{tokens['assumption']} Images between {limits}")
    yield _distributions(
        {
            "visual tokens of an image": tokens["visual_by_image"],
            "visual tokens of a problem": tokens["visual_by_problem"],
            "tokens of a prompt": tokens["prompt"],
        }
    )
    yield table(
        ["limit", f"problems with more {tokens['above_counts']}"],
        [[limit, count] for limit, count in tokens["above"].items()],
    )
    if not found["images"]["different"] and (png := plot_prompts(found)):
        yield figure(png, "prompt lengths")
    if tokens["too_narrow"]:
        yield element("h3", f"Images too narrow to be resized ({len(tokens['too_narrow'])})")
        rows = [[row["uid"], row["pixels"]] for row in tokens["too_narrow"]]
        yield table(["problem", "pixels"], rows)


def _repeats(repeats: Figures) -> Iterator[Html]:
    yield element("h2", "Repeats")
    names = {
        "contradictory": "same question and images, different answers: contradictory",
        "across_splits": "same question and images in several splits",
        "same_question_and_images": "same question and images",
        "same_image": "same image, another question",
        "same_question_other_images": "same question, other images",
    }
    yield table(
        ["kind", "groups", "problems", "beyond the first"],
        [
            [title, *(repeats[key][column] for column in ("groups", "problems", "extra"))]
            for key, title in names.items()
        ],
    )
    for key, title in names.items():
        groups = repeats[key]["examples"]
        if groups:
            shown = groups[:_MOST_GROUPS]
            listed = (_group(group) for group in shown)
            yield details(f"{title}: {len(groups)} groups", *listed, _rest(groups, shown))


def _group(group: Sequence[Figures]) -> Html:
    shown = group[:_MOST_GROUPS]
    rows = [[one["uid"], one["split"], one["gold"], _cut(one["question"])] for one in shown]
    return joined([table(["problem", "split", "gold", "question"], rows), _rest(group, shown)])


def _skipped(skipped: Figures) -> Iterator[Html]:
    yield element("h2", f"Rows left out ({skipped['count']})")
    for reason, rows in skipped["by_reason"].items():
        shown = rows["rows"][:_MOST_ROWS]
        lines = element("ul", *(element("li", _cut(row)) for row in shown))
        yield details(f"{reason}: {rows['count']}", lines, _rest(rows["rows"], shown))


def _drawn(entries: Sequence[Entry], seed: int) -> Iterator[Html]:
    rng = random.Random(seed)
    drawn = rng.sample(range(len(entries)), min(_NUM_DRAWN, len(entries)))
    yield element("h2", f"{len(drawn)} problems, drawn with seed {seed}")
    cards = (_problem_card(entries[index]) for index in sorted(drawn))
    yield element("div", *cards, kind="cards")
    longest = sorted(entries, key=lambda e: -len(e.problem.question))[:_NUM_OFFENDERS]
    yield element("h3", "The longest questions")
    yield element("div", *map(_problem_card, longest), kind="cards")
    answers = sorted(entries, key=lambda e: -len(e.problem.answer))[:_NUM_OFFENDERS]
    yield element("h3", "The longest answers")
    yield element("div", *map(_problem_card, answers), kind="cards")


def _problem_card(entry: Entry) -> Html:
    problem = entry.problem
    choices = [f"({chr(ord('A') + n)}) {text}" for n, text in enumerate(problem.choices or ())]
    gold = element("p", element("b", _cut(problem.answer)), f" ({gold_of(problem).answer_type})")
    return element(
        "div",
        *(thumbnail(picture.source) for picture in entry.pictures),
        element("p", _cut(problem.question)),
        *([element("p", _cut("\n".join(choices)))] if choices else []),
        gold,
        element("p", " · ".join(filter(None, (problem.uid, problem.task))), kind="quiet"),
        kind="card",
    )


def _distributions(found: Mapping[str, Figures | None]) -> Html:
    columns = ("min", "p5", "p50", "mean", "p95", "max")
    headings = ["", "count", "least", "5 %", "median", "mean", "95 %", "most"]
    known = [(title, one) for title, one in found.items() if one is not None]
    rows = [[title, one["count"], *(one[name] for name in columns)] for title, one in known]
    return table(headings, rows)


def _rest(whole: Sequence[object], shown: Sequence[object]) -> Html:
    left = len(whole) - len(shown)
    return element("p", f"and {left} more, all in the JSON file", kind="quiet") if left else Html()


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _percent(share: float | None) -> float | str:
    return "-" if share is None else 100 * share


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
