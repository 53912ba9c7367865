"""The page of changes between two evaluations: changes.md, changes.json, and small images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_rl.data.image_files import BadImage, opened, upright_rgb
from vlm_rl.disk.files import write_text, written_whole
from vlm_rl.evaluation.changes import (
    RIGHT,
    WRONG,
    BenchmarkChanges,
    CategoryChange,
    QuestionChange,
    changes_between,
)
from vlm_rl.evaluation.report import SAMPLES, read_rows
from vlm_rl.records import IMAGE_MARK
from vlm_rl.show.json_text import json_text
from vlm_rl.show.markdown import Markdown, image, table

CHANGES = "changes.md"
RESULTS = "changes.json"
IMAGES = "changes"
MOST_LOST, MOST_GAINED = 20, 10
_MOST_CHARS = 600
_LARGEST = (360, 270)

HOW = (
    "A question is right if more than half of its checked samples are. *First* is before, *second* "
    "after. Whether the difference is more than noise says comparison.md."
)
HEADINGS = ("", "right, % of samples", "mean tokens", "answer", "verdict", "response")
QuestionImages = Callable[[str, str], Sequence[bytes | Path] | None]
"""Benchmark and uid -> the images of a question, None if they are not at hand."""


def write_changes(
    first: Path, second: Path, target: Path, images: QuestionImages | None = None
) -> None:
    """Write what changed from evaluation folder `first` to `second` into `target`.

    Images come from `images`, else from the paths that the samples name; bytes of a table are not
    kept with samples.
    """
    changes = changes_between(first, second)
    parts = [
        Markdown("# Changes"),
        Markdown("First: {}. Second: {}.").format(str(first), str(second)),
        Markdown(HOW),
    ]
    for one in changes:
        paths = [folder / one.benchmark / SAMPLES for folder in (first, second)]
        parts += [Markdown("## {}").format(one.benchmark), *_tables(one)]
        page = _Page(one.benchmark, paths, target, images)
        parts += page.section("From right to wrong", one.lost, MOST_LOST)
        parts += page.section("From wrong to right", one.gained, MOST_GAINED)
    write_text(target / CHANGES, Markdown("\n\n").join(parts) + Markdown("\n"))
    plain = {"benchmarks": [one.plain() for one in changes]}
    write_text(target / RESULTS, json_text(plain, indent=1) + "\n")


def _tables(one: BenchmarkChanges) -> list[Markdown]:
    rows = [
        (f"{side} before", one.counts[side, RIGHT], one.counts[side, WRONG])
        for side in (RIGHT, WRONG)
    ]
    moved = ", ".join(f"{number} {how}" for how, number in one.moved.items())
    parts = [
        table(("questions", "right after", "wrong after"), rows),
        Markdown("{}").format(f"Over all samples: {moved}."),
    ]
    hows = {"how they are wrong now": one.how_lost, "how they were wrong before": one.how_wrong}
    kinds = ("of the questions that turned wrong", "of those that turned right")
    for kind, (heading, counted) in zip(kinds, hows.items(), strict=True):
        if counted:
            parts.append(table((f"{heading}, {kind}", "samples"), list(counted.items())))
    if one.categories:
        headings = ("category", "value", "questions", "turned wrong", "turned right", "net")
        parts.append(table(headings, [_category(each) for each in one.categories]))
    return parts


def _category(one: CategoryChange) -> tuple[object, ...]:
    net = f"{one.gained - one.lost:+}"
    return one.category, one.value, one.num_questions, one.lost, one.gained, net


class _Page:
    """The part of the page with questions of one benchmark."""

    def __init__(
        self, benchmark: str, paths: Sequence[Path], target: Path, images: QuestionImages | None
    ) -> None:
        self._benchmark = benchmark
        self._paths = paths
        self._target = target
        self._images = images

    def section(self, heading: str, changes: Sequence[QuestionChange], most: int) -> list[Markdown]:
        """Return the first `most` questions, with both responses."""
        shown = changes[:most]
        more = f", {most} of them here and all in {RESULTS}" if len(changes) > most else ""
        title = Markdown("### {}: {}").format(heading, f"{len(changes)}{more}")
        before, after = (read_rows(path, {one.uid for one in shown}) for path in self._paths)
        questions = [
            part for one in shown for part in self._question(one, before[one.uid], after[one.uid])
        ]
        return [title, *questions]

    def _question(
        self,
        change: QuestionChange,
        before: Sequence[Mapping[str, Any]],
        after: Sequence[Mapping[str, Any]],
    ) -> list[Markdown]:
        row = after[0]
        turned_wrong = change.kind == (RIGHT, WRONG)
        rows = [
            _response("first", before, change.before, change.tokens_before, right=turned_wrong),
            _response("second", after, change.after, change.tokens_after, right=not turned_wrong),
        ]
        options = row.get("choices")
        parts = [
            Markdown("**{}**").format(change.uid),
            Markdown("{}").format(_question_of(row)),
            *([Markdown("Options: {}.").format("; ".join(options))] if options else []),
            *self._pictures(change.uid, row),
            Markdown("Gold: {}.").format(row["gold"]),
            table(
                ("", "right, % of samples", "mean tokens", "answer", "verdict", "response"), rows
            ),
        ]
        return parts

    def _pictures(self, uid: str, row: Mapping[str, Any]) -> list[Markdown]:
        """Write small copies of a question's images, and return them."""
        given = self._images(self._benchmark, uid) if self._images else None
        sources = given if given is not None else [Path(p) for p in row.get("images", ()) if p]
        shown = []
        folder = self._target / IMAGES / self._benchmark
        for source in sources:
            target = folder / f"{len(list(folder.glob('*.jpg'))) + 1}.jpg"
            try:
                _small(source, target)
            except BadImage as error:
                shown.append(Markdown("({})").format(str(error)))
                continue
            shown.append(image(target.relative_to(self._target).as_posix()))
        if not sources and row.get("images"):
            shown.append(
                Markdown("(its image lies in a table: `--model FIRST SECOND` shows it here)")
            )
        return shown


def _small(source: bytes | Path, target: Path) -> None:
    """Write a small JPEG of an image as everyone is shown it. Raises BadImage."""
    with opened(source) as file:
        picture = upright_rgb(file, source)
    picture.thumbnail(_LARGEST)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as partial:
        picture.save(partial, "JPEG", quality=85)


def _response(
    side: str,
    samples: Sequence[Mapping[str, Any]],
    share: float,
    tokens: float | None,
    *,
    right: bool,
) -> tuple[str, ...]:
    """Return a row with one response: a right one of the side that is right, else a wrong one."""
    fitting = [row for row in samples if (row["verdict"] == "correct") is right]
    row = (fitting or samples)[0]
    cut = ", cut off" if row.get("truncated") else ""
    return (
        side,
        f"{100 * share:.0f}",
        "-" if tokens is None else f"{tokens:,.0f}",
        "(none)" if row["answer"] is None else _cut(row["answer"], 80),
        f"{row['verdict']} ({row['rule']}){cut}",
        _cut(row["response"]),
    )


def _question_of(row: Mapping[str, Any]) -> str:
    question = str(row.get("question") or "(its text is not kept in this file)")
    return _cut(" ".join(question.replace(IMAGE_MARK, " ").split()))


def _cut(text: str, most: int = _MOST_CHARS) -> str:
    """Return a text whole, or its beginning and its end, where the answer stands."""
    if len(text) <= most:
        return text
    return f"{text[: most // 3]} […] {text[-2 * most // 3 :]}"
