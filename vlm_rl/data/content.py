"""What rows hold, as digests: a run that resumes notices data that has changed since.

A uid says which row it is, not what is in it. So a checkpoint keeps a few bytes of each field, and
a message can name the rows and the fields that differ.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vlm_rl.data.images import ImageStore
from vlm_rl.records import Problem

Acceptance = Literal["none", "validation", "added", "all"]
"""Which changes of the data a resumed run accepts. Each word accepts those before it too."""

FIELDS = (
    "question",
    "answer",
    "images",
    "choices",
    "answer_type",
    "unit",
    "tolerance",
    "answer_style",
    "box_space",
    "task",
    "meta",
)
_LEVELS: tuple[Acceptance, ...] = ("none", "validation", "added", "all")
_SHOWN = 3
_BYTES = 4
_ENCODER = json.JSONEncoder(sort_keys=True, default=repr)  # made once: there are fields in millions


@dataclass(frozen=True)
class Contents:
    """The rows of one source, or of several one after the other.

    `uids` has their names, `digests` [rows, fields] int32 what is in each of `FIELDS`, 0 if that is
    nothing.
    """

    uids: list[str]
    digests: Tensor

    @classmethod
    def of(cls, problems: Sequence[Problem], images: ImageStore) -> "Contents":
        digests = np.empty((len(problems), len(FIELDS)), np.int32)
        for row, problem in zip(digests, problems, strict=True):
            row[:] = _digests(problem, images)
        return cls([problem.uid for problem in problems], torch.from_numpy(digests))


@dataclass(frozen=True)
class Changes:
    """How rows differ from those before: `edited` maps uids to the fields that do.

    `moved` says whether rows that are in both stand in another order.
    """

    edited: dict[str, list[str]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    moved: bool = False

    @classmethod
    def between(cls, before: Sequence[Contents], now: Sequence[Contents]) -> "Changes":
        """Compare the sources of a run with those of its checkpoint."""
        was, are = _by_uid(before), _by_uid(now)
        both = [uid for uid in was if uid in are]
        places = [
            [(uid, rows[uid][0]) for uid in rows if uid in other]
            for rows, other in ((was, are), (are, was))
        ]
        return cls(
            edited={uid: names for uid in both if (names := _differing(was[uid], are[uid]))},
            gone=[uid for uid in was if uid not in are],
            new=[uid for uid in are if uid not in was],
            moved=places[0] != places[1],
        )

    def __bool__(self) -> bool:
        return bool(self.edited or self.gone or self.new or self.moved)

    @property
    def only_new(self) -> bool:
        return bool(self.new) and not (self.edited or self.gone or self.moved)

    def __str__(self) -> str:
        """Count the rows of each kind and name a few."""
        edited = [f"{uid!r:.60} ({', '.join(names)})" for uid, names in self.edited.items()]
        parts = [
            _counted(edited, "edited"),
            _counted([f"{uid!r:.60}" for uid in self.gone], "gone"),
            _counted([f"{uid!r:.60}" for uid in self.new], "new"),
            "rows in another order" if self.moved else "",
        ]
        return "; ".join(part for part in parts if part)


def check_accepted(training: Changes, validation: Changes, accepted: Acceptance) -> list[str]:
    """Return a line for each part of the data that has changed as `accepted` allows.

    Raises ValueError with one line for what it does not allow.
    """
    needed = ("all" if training and not training.only_new else "added") if training else "none"
    if validation and not training:
        needed = "validation"
    named = {"training": training, "validation": validation}
    lines = [f"the {name} data has changed since: {one}" for name, one in named.items() if one]
    if _LEVELS.index(needed) > _LEVELS.index(accepted):
        raise ValueError(
            f"{'; '.join(lines)}; put it back, go on with it by data.accept_changes={needed}, or "
            "start a new run by --run_dir NAME"
        )
    if training.new or training.gone or training.moved:
        lines[0] += (
            "; the steps to come are those of a run that had this data from its start, so some "
            "problems of this epoch come again and some do not come"
        )
    return [f"{line}; data.accept_changes={accepted} accepts it" for line in lines]


def _digests(problem: Problem, images: ImageStore) -> list[int]:
    values = {name: getattr(problem, name) for name in FIELDS}
    values["images"] = [images.digest_of(image) for image in problem.images]
    if problem.alternatives:
        values["answer"] = [problem.answer, *problem.alternatives]
    if problem.system is not None:  # a part of what is asked
        values["question"] = [problem.system, problem.question]
    return [_digest(value) if value else 0 for value in values.values()]


def _digest(value: Any) -> int:
    plain = value if isinstance(value, str | list | tuple) else dict(value)
    content = hashlib.blake2b(_ENCODER.encode(plain).encode(), digest_size=_BYTES).digest()
    return int.from_bytes(content, "big", signed=True)


def _by_uid(sources: Sequence[Contents]) -> dict[str, tuple[int, list[int]]]:
    """Map each uid to the number of its source and its digests, in the order of the rows."""
    return {
        uid: (number, row)
        for number, source in enumerate(sources)
        for uid, row in zip(source.uids, source.digests.tolist(), strict=True)
    }


def _differing(before: tuple[int, list[int]], now: tuple[int, list[int]]) -> list[str]:
    if before == now:
        return []
    pairs = zip(FIELDS, before[1], now[1], strict=True)
    return [name for name, old, new in pairs if old != new]


def _counted(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    rows = "row" if len(names) == 1 else "rows"
    return f"{len(names)} {rows} {what}: {', '.join(names[:_SHOWN])}{more}"
