"""What is asked: a row of a data set, and what may be said of an answer to it."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

IMAGE_MARK = "<image>"
"""Where an image stands in the text of a question."""

THINK = "<think>"
"""What opens the thinking; a chat template may write it at the end of every prompt."""

END_OF_THINKING = "</think>"

AnswerType = Literal[
    "number",
    "number_unit",
    "percent",
    "latex",
    "expression",
    "interval",
    "set",
    "tuple",
    "matrix",
    "ratio",
    "time",
    "list",
    "text",
    "choice",
]
OtherAnswerType = Literal["box", "point", "cell", "json", "pattern", "free_text"]
"""Of answers that the verifier does not check; reward terms of their own do."""
GoldType = AnswerType | OtherAnswerType
BoxSpace = Literal["original", "resized", "relative_1", "relative_1000"]
"""What coordinates count: pixels of the upright original or of what the model sees of it, or parts
of its width and height, the whole of which is 1 or 1000."""


class Verdict(enum.StrEnum):
    """The result of checking an answer. Only the first three say something about the policy."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def scored(self) -> bool:
        """Whether the checker worked. If not, the completion enters no statistic and no loss."""
        return self not in (Verdict.TIMEOUT, Verdict.ERROR)


class ImageSizes(NamedTuple):
    """Width and height in pixels of an image, upright, and of what the model sees of it."""

    original: tuple[int, int]
    resized: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Problem:
    """A row of a data set. `uid` is stable over runs, because it keys all per-problem state.

    Any of `alternatives` counts as `answer` does. `system` replaces the run's own system message.
    `box_space` is that of boxes and points in the answer. The problem of a prompt has the `sizes`
    of its images, others have none.
    """

    uid: str
    question: str
    answer: str
    images: tuple[bytes | Path, ...] = ()
    answer_type: GoldType | None = None
    choices: tuple[str, ...] | None = None
    unit: str | None = None
    tolerance: Mapping[str, float] | None = None
    answer_style: str | None = None
    source: str = ""
    task: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()
    system: str | None = None
    box_space: BoxSpace | None = None
    sizes: tuple[ImageSizes, ...] = ()

    def __post_init__(self) -> None:
        for name in ("uid", "question", "answer"):
            if not getattr(self, name).strip():
                raise ValueError(f"problem {self.uid!r}: {name} is empty")
