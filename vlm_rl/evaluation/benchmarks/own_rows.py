"""Questions of the user's own, in any form that training reads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_rl.data.datamodule import DataSource
from vlm_rl.data.images import ImageStore
from vlm_rl.data.rows import SourceRows, read_problems
from vlm_rl.evaluation.benchmarks.benchmark import QuestionSet
from vlm_rl.records import BoxSpace, GoldType, Problem

_CATEGORIES = ("category", "difficulty", "grade", "level", "subject", "topic")
_LONGEST_VALUE = 40
_SUFFIX = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|tar|tar\.gz|tgz)$")
_UNFIT = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class RowSettings:
    """How files of the user's own are read; each is a key of a source of training.

    `columns` maps our column names to theirs; `form` names the form of the rows, which their
    columns tell if it is left out; columns in `ignore` are neither used nor kept; paths of images
    begin in `image_folder`, by default the folder of the file; `answer_type` and `box_space` are of
    rows that do not say it themselves.
    """

    columns: dict[str, str] | None = None
    form: str | None = None
    ignore: list[str] | None = None
    image_folder: str | None = None
    answer_type: GoldType | None = None
    box_space: BoxSpace | None = None


class OwnRows(QuestionSet):
    """The rows of `path`: a file, a folder or a hub id, as training takes them.

    Its name is that of the file, with the split if one is named. Accuracies are given by source, by
    task, and by the columns category, difficulty, grade, level, subject and topic, as far as there
    are such.
    """

    instruction = "Reason step by step and put the final answer in one \\boxed{}."

    def __init__(self, path: str, split: str | None, settings: RowSettings) -> None:
        self.source = DataSource(path, split=split, **vars(settings))
        self.hub_id = path
        self.splits = (split or "all",)
        name = _UNFIT.sub("_", _SUFFIX.sub("", Path(path).name))
        self.name = name if split is None else f"{name}-{_UNFIT.sub('_', split)}"

    def read(self, images: ImageStore) -> SourceRows:
        """Return the problems with their categories. Raises ValueError as `read_problems` does."""
        source = self.source
        rows = read_problems(
            source.path,
            images,
            owners={},
            split=source.split,
            columns=source.columns,
            form=source.form,
            ignore=source.ignore or (),
            image_folder=source.image_folder,
            defaults=source.defaults,
        )
        return replace(rows, problems=[self._named(problem) for problem in rows.problems])

    def _named(self, problem: Problem) -> Problem:
        said = {"source": problem.source, "task": problem.task}
        own = {name: value for name, value in said.items() if value not in ("", self.hub_id)}
        own |= {name: problem.meta[name] for name in _CATEGORIES if name in problem.meta}
        short = {name: str(value) for name, value in own.items() if _is_category(value)}
        meta = {**problem.meta, "categories": short | _given_categories(problem.meta)}
        # a row keeps its task, by which terms may go; its split must not be that of a benchmark
        return replace(problem, split=self.name, meta=meta)


def is_own(name: str) -> bool:
    """Whether `name` can only be the place of rows: a benchmark's name has neither a dot nor a
    slash."""
    return "." in name or "/" in name or Path(name).exists()


def own_rows(name: str, settings: RowSettings) -> OwnRows:
    """Return the questions of `path[:split]`."""
    path, colon, split = name.rpartition(":")
    if colon and not Path(name).exists():
        return OwnRows(path, split, settings)
    return OwnRows(name, None, settings)


def _is_category(value: object) -> bool:
    return isinstance(value, str | int | float) and 0 < len(str(value)) <= _LONGEST_VALUE


def _given_categories(meta: Mapping[str, Any]) -> dict[str, str]:
    given = meta.get("categories") or {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f"categories must be an object of names and values, got {given!r:.60}; rename the "
            "column or leave it out by rows.ignore"
        )
    return {str(name): str(value) for name, value in given.items()}
