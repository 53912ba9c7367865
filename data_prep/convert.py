"""From a data set's rows to the one format on disk, the same way for every set.

    python -m data_prep.geometry3k --output data/geometry3k

A converter drafts each row, its images are checked and written, its marks counted. Then repeats,
overlap with benchmarks and golds that no verifier can read are left out. Every row that is read is
either written or counted under a reason.
"""

import argparse
import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.converter import Converter, Draft, Drop, Source
from data_prep.on_disk import NATIVE, Drops, ImageFolder, check_folder, write_manifest, write_rows
from data_prep.peer_forms import PEERS, changes, write_peer_rows
from data_prep.repeats import Repeats
from vlm_rl.data.images import ImageStore
from vlm_rl.data.tables import BadRow, Table
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.percentages import percent_type
from vlm_rl.evaluation.overlap import Benchmarks
from vlm_rl.records import IMAGE_MARK, Problem
from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.show.plain import one_line
from vlm_rl.show.screen import say, track

_GOLDS_AT_ONCE = 64


@dataclass(frozen=True)
class Options:
    """What the command line says. `limit` counts rows that are read, not those that are written.

    `form` is `vlm_rl` or one of `PEERS`.
    """

    source: str
    split: str
    output: Path
    limit: int | None = None
    exclude_benchmarks: Sequence[str] = ()
    form: str = NATIVE

    def plain(self) -> dict[str, Any]:
        """Return all but `output`, the manifest's own folder, so that two copies are the same
        bytes."""
        return {name: value for name, value in asdict(self).items() if name != "output"}


def main(*converters: Converter) -> None:
    """Run the command line of a script: the first converter, or the one whose `flag` is given.

    Raises SystemExit with one line for what cannot be read, and if no row could be written.
    """
    arguments = vars(_parser(converters).parse_args())
    converter = arguments.pop("converter")
    options = Options(**arguments)
    try:
        entry, drops = convert(converter, options)
    except (ValueError, OSError) as error:
        raise SystemExit(one_line(f"{converter.name}: {error}")) from error
    for benchmark in entry["benchmarks"]:
        say(_compared(benchmark))
    for change, number in entry["changes"].items():
        say(f"{number} rows: {change}")
    line = last_line(entry, drops, options)
    if not entry["written"]:
        raise SystemExit(one_line(line))
    say(line)


def convert(converter: Converter, options: Options) -> tuple[dict[str, Any], Drops]:
    """Write one split and return its entry in the manifest and what was left out.

    Raises ValueError for a source or benchmark that cannot be read and for a missing column.
    """
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    check_folder(options.output, converter.name, options.form)
    source = converter.open(options.source, options.split)
    for table in source.tables:
        converter.check_columns(table)
    run = _Conversion(converter, options, Benchmarks(options.exclude_benchmarks))
    rows = run.rows(source)
    entry = _entry(converter, options, source, run, rows)
    write_manifest(options.output, converter.name, options.split, entry)
    return entry, run.drops


def last_line(entry: Mapping[str, Any], drops: Drops, options: Options) -> str:
    """Return where the problems are, and what was left out for which reason."""
    place = options.output / entry["file"]
    left_out = f"{drops.total} of {entry['read']} rows left out"
    return (
        f"{entry['written']} problems with {entry['images']} images are in {place}; {left_out}"
        f"{f': {drops}' if drops.total else ''}"
    )


class _Conversion:
    """One split on its way to disk."""

    def __init__(self, converter: Converter, options: Options, benchmarks: Benchmarks) -> None:
        self.converter = converter
        self.options = options
        self.benchmarks = benchmarks
        self.drops = Drops()
        self.read = 0
        self.marks_added: set[str] = set()
        """Uids of problems with fewer marks than images."""
        self._repeats = Repeats(keep=converter.keeps_repeats)
        self._images = ImageFolder(options.output)

    def rows(self, source: Source) -> list[dict[str, Any]]:
        """Return all rows to write, in the order of the source, and write their images."""
        kept: list[dict[str, Any]] = []
        for table, place, row in self._raw(source):
            self.read += 1
            try:
                kept.append(self._row(row, table))
            except (Drop, BadRow) as error:
                reason = error.reason if isinstance(error, BadRow) else str(error)
                self.drops.add(reason, _name_of(row, place))
        kept = self._without(kept, self._repeats.contradicted, "contradictory answers")
        kept = self._without(kept, _unreadable(kept), "gold cannot be verified")
        self._images.remove_unused(kept)
        return kept

    def write(self, file: Path, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write the rows in the form that is asked for, and return the sha256 of the file. The
        tables of peers hold the images themselves."""
        if self.options.form == NATIVE:
            return write_rows(file, rows)
        digest = write_peer_rows(file, rows, self.options.form)
        self._images.remove_unused(())
        return digest

    def _raw(self, source: Source) -> Iterable[tuple[Table, str, object]]:
        tables, limit = source.tables, self.options.limit
        rows = ((table, place, row) for table in tables for place, row in table.rows)
        sizes = [len(table.rows) for table in tables if isinstance(table.rows, Sized)]
        total = sum(sizes) if len(sizes) == len(tables) else limit
        if total is not None and limit is not None:
            total = min(total, limit)
        title = f"{self.converter.name} {self.options.split}"
        return track(islice(rows, limit), title, total=total)

    def _row(self, raw: object, table: Table) -> dict[str, Any]:
        draft = self._draft(raw, table)
        images = [_content(item, table.folder) for item in draft.images]
        digests = [hashlib.sha256(image).hexdigest() for image in images]
        question = _marked(draft.question, len(images))
        if reason := self.benchmarks.match(question, images):
            raise Drop(reason)
        uid = self._uid(draft, question, digests)
        self._repeats.check(uid, question, draft, digests)
        if question != draft.question:
            self.marks_added.add(uid)
        row: dict[str, Any] = {
            "uid": uid,
            "problem": question,
            "answer": draft.answer,
            "images": [self._images.save(image) for image in images],
            "answer_type": draft.answer_type,
            "choices": list(draft.choices) if draft.choices else None,
            "unit": draft.unit,
            "tolerance": dict(draft.tolerance) if draft.tolerance else None,
            "source": self.converter.name,
            "task": draft.task,
            "split": self.options.split,
            "meta": dict(draft.meta),
        }
        row["answer_type"] = percent_type(_problem(row))
        return {name: value for name, value in row.items() if value is not None}

    def _draft(self, raw: object, table: Table) -> Draft:
        if isinstance(raw, BadRow):
            raise raw
        if not isinstance(raw, Mapping):
            raise Drop("not an object")
        if not any(set(layout) <= raw.keys() for layout in self.converter.layouts):
            raise Drop("a column is missing in the row")
        draft = self.converter.draft(raw)
        if not draft.question.replace(IMAGE_MARK, "").strip():
            raise Drop("empty question")
        if not draft.answer.strip():
            raise Drop("empty answer")
        if not all(choice.strip() for choice in draft.choices or ()):
            raise Drop("empty choice")
        texts = (draft.question, draft.answer, *(draft.choices or ()))
        if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
            raise Drop("half a character (a lone surrogate)")
        return draft

    def _uid(self, draft: Draft, question: str, digests: Sequence[str]) -> str:
        key = draft.id
        if key is None:
            content = "\0".join([question, *digests, draft.answer, *(draft.choices or ())])
            key = hashlib.sha256(content.encode()).hexdigest()[:16]
        return f"{self.converter.name}-{self.options.split}-{key}"

    def _without(
        self, rows: list[dict[str, Any]], uids: set[str], reason: str
    ) -> list[dict[str, Any]]:
        for row in rows:
            if row["uid"] in uids:
                self.drops.add(reason, row["uid"])
        return [row for row in rows if row["uid"] not in uids]


def _compared(benchmark: Mapping[str, Any]) -> str:
    """Say what a benchmark had to compare with, and what a missing image means."""
    compared = f"{benchmark['questions']} questions and {benchmark['images']} images"
    line = f"compared with {benchmark['path']}: {compared}"
    if not benchmark["images_missing"]:
        return line
    return (
        f"{line}; {benchmark['images_missing']} images are MISSING: a problem that has only such "
        "an image in common with the benchmark is not detected; put them where its rows say, or "
        "name a copy with images"
    )


def _parser(converters: Sequence[Converter]) -> argparse.ArgumentParser:
    default, *variants = converters
    parser = argparse.ArgumentParser(
        prog=f"vlm-rl data {default.name}",
        description=f"Convert {default.name} to JSONL with an images folder and a manifest.",
    )
    parser.set_defaults(converter=default)
    parser.add_argument("--source", default=default.hub_id, help="hub id, folder or file")
    parser.add_argument("--split", default=default.split, help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--limit", type=int, help="read only the first rows")
    parser.add_argument(
        "--form",
        choices=(NATIVE, *PEERS),
        default=NATIVE,
        help="whose trainer reads it: ours (JSONL), EasyR1 or TRL (parquet); default: %(default)s",
    )
    parser.add_argument(
        "--exclude-benchmarks",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help=f"what must not be trained on: NAME[:SPLIT][=COPY] of {', '.join(BENCHMARKS)}; a "
        "converted folder; a raw table",
    )
    for variant in variants:
        parser.add_argument(
            f"--{variant.flag}",
            action="store_const",
            const=variant,
            dest="converter",
            help=variant.__doc__,
        )
    return parser


def _entry(
    converter: Converter,
    options: Options,
    source: Source,
    run: _Conversion,
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    file = f"{options.split}.{'jsonl' if options.form == NATIVE else 'parquet'}"
    assert run.read == len(rows) + run.drops.total, "every row is written or counted"
    return {
        "source": options.source,
        "revision": source.revision,
        "file": file,
        "sha256": run.write(options.output / file, rows),
        "read": run.read,
        "written": len(rows),
        "dropped": run.drops.plain(),
        "images": len({name for row in rows for name in row["images"]}),
        "text_only": sum(not row["images"] for row in rows),
        "changes": {} if options.form == NATIVE else changes(rows),
        "marks_added": sum(row["uid"] in run.marks_added for row in rows),
        "benchmarks": [asdict(benchmark) for benchmark in run.benchmarks.read],
        "options": options.plain() | {"flag": converter.flag},
        "command": _command(converter, options),
    }


def _marked(question: str, num_images: int) -> str:
    """Return the question with one mark per image; missing ones are put first."""
    missing = num_images - question.count(IMAGE_MARK)
    if missing < 0:
        raise Drop("more image marks than images")
    return IMAGE_MARK * missing + question


def _command(converter: Converter, options: Options) -> str:
    arguments = ["--source", options.source, "--split", options.split, "--output", "FOLDER"]
    arguments += [f"--{converter.flag}"] if converter.flag else []
    arguments += ["--limit", str(options.limit)] if options.limit else []
    arguments += ["--form", options.form] if options.form != NATIVE else []
    if options.exclude_benchmarks:
        arguments += ["--exclude-benchmarks", *options.exclude_benchmarks]
    return shlex.join(["python", "-m", f"data_prep.{converter.name}", *arguments])


def _content(item: object, folder: Path) -> bytes:
    image, _ = ImageStore().add(item, folder)
    return image if isinstance(image, bytes) else image.read_bytes()


def _name_of(row: object, place: str) -> str:
    """Return the row's own id, or its number if it has none."""
    if isinstance(row, Mapping):
        for column in ("uid", "id", "qid"):
            if row.get(column) is not None:
                return str(row[column])
    return place.rpartition(", ")[2]


def _unreadable(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    accuracy = Accuracy()
    try:
        chunks = range(0, len(rows), _GOLDS_AT_ONCE)
        return {
            uid
            for start in track(chunks, "checking golds")
            for uid in _bad_golds(accuracy, [_problem(r) for r in rows[start:][:_GOLDS_AT_ONCE]])
        }
    finally:
        accuracy.close()


def _bad_golds(accuracy: Accuracy, problems: Sequence[Problem]) -> list[str]:
    """Return the uids of bad golds. Halves the problems until each bad one stands alone, because
    `unusable` returns lines to print, not problems."""
    if not problems or not accuracy.unusable(problems):
        return []
    if len(problems) == 1:
        return [problems[0].uid]
    middle = len(problems) // 2
    return _bad_golds(accuracy, problems[:middle]) + _bad_golds(accuracy, problems[middle:])


def _problem(row: Mapping[str, Any]) -> Problem:
    choices = row.get("choices")
    return Problem(
        uid=row["uid"],
        question=row["problem"],
        answer=row["answer"],
        answer_type=row.get("answer_type"),
        choices=tuple(choices) if choices else None,
        unit=row.get("unit"),
        tolerance=row.get("tolerance"),
    )
