"""DynaMath: 501 questions in ten variants each, a benchmark of consistency; 5,010 problems.

    python -m data_prep.dynamath --output data/dynamath
    python -m data_prep.dynamath --output data/dynamath --split sample_variant3

Schema (the card of DynaMath/DynaMath_Sample): `id`, `question`, `image` (a path), `decoded_image`,
`ground_truth`, `answer_type`, `subject`, `knowledge_level`, in splits `sample_variant1` to
`sample_variant10`. The authors' repository has `trial1/dataset.json` to `trial10`, keyed by id,
with `question`, `answer`, `image`, `answer_type`, `subject`, `level`: name the folder of the trials
as the source. Licence: MIT (the repository).

Flaws handled: floats are right within 0.001, as the authors compare them; golds of type `text` may
be points, equations or numbers; double spaces in subjects. `meta.cluster` is the question, over its
variants. Nothing is taken out as a repeat.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, Source, items, revision_of, text
from data_prep.golds import plain_answer
from vlm_rl.records import AnswerType
from vlm_rl.tables import Table, open_table

_SPLIT = re.compile(r"all|(?:sample_variant|trial)(10|[1-9])")
_VARIANT = "variant"


class DynaMath(Converter):
    """The form on the hub and the form in the repository."""

    name = "dynamath"
    hub_id = "DynaMath/DynaMath_Sample"
    split = "all"
    layouts = (
        (
            "id", "question", "image", "decoded_image", "ground_truth", "answer_type", "subject",
            "knowledge_level",
        ),
        ("id", "question", "image", "answer", "answer_type", "subject", "level"),
    )  # fmt: skip
    keeps_repeats = True

    def open(self, source: str, split: str) -> Source:
        if not (named := _SPLIT.fullmatch(split)):
            raise ValueError(
                f"--split is all or sample_variant1 to sample_variant10, got {split!r}"
            )
        path = Path(source).expanduser()
        if path.is_file():
            found = re.fullmatch(r"(?:trial)?(\d+)", path.parent.name)
            return Source([_numbered(open_table(source), int(found[1]) if found else 1)])
        variants = [int(named[1])] if named[1] else range(1, 11)
        if any(path.glob("trial*/dataset.json")):
            files = {n: path / f"trial{n}" / "dataset.json" for n in variants}
            return Source([_numbered(open_table(str(file)), n) for n, file in files.items()])
        tables = [_numbered(open_table(source, f"sample_variant{n}"), n) for n in variants]
        return Source(tables, None if path.exists() else revision_of(source, None))

    def draft(self, row: Mapping[str, Any]) -> Draft:
        on_hub = "ground_truth" in row
        seed, variant = text(row["id"]), row.get(_VARIANT)
        subject = " ".join(text(row["subject"]).split())
        answer = plain_answer(text(row["ground_truth" if on_hub else "answer"]))
        kind = text(row["answer_type"])
        return Draft(
            question=text(row["question"]),
            answer=answer,
            images=items(row.get("decoded_image") or row["image"]),
            id=f"{seed}-{variant}",
            answer_type=_type_of(kind, answer),
            tolerance={"abs": 0.001} if kind == "float" else None,
            task=subject,
            meta={
                "cluster": seed,
                "variant": variant,
                "categories": {
                    "subject": subject,
                    "level": text(row["knowledge_level" if on_hub else "level"]),
                },
            },
        )


def _type_of(kind: str, answer: str) -> AnswerType | None:
    if kind == "multiple choice":
        return "choice"
    if kind in ("float", "int", "integer"):
        return "number"
    if answer.startswith("(") and "," in answer:
        return "tuple"
    return "text" if not re.search(r"[\d=\\]", answer) else None


def _numbered(table: Table, variant: int) -> Table:
    """The table with the number of its variant in every row."""
    return replace(table, rows=list(_with_variant(table.rows, variant)))


def _with_variant(rows: Iterable[tuple[str, object]], variant: int) -> Iterable[tuple[str, object]]:
    for place, row in rows:
        yield place, {**row, _VARIANT: variant} if isinstance(row, Mapping) else row


if __name__ == "__main__":
    main(DynaMath())
