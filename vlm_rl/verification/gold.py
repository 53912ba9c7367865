"""What an answer is checked against, what is found, and the two ways in which reading can fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_CHARACTERS = 1000
"""Longer answers are refused unread: no real one is, and parsers take seconds over them."""


class Unparsable(ValueError):
    """The text of an answer cannot be read as what its gold asks for; the message is the rule."""


class GoldUnparsable(ValueError):
    """The gold itself cannot be read: a fault of the data, never a statement about the policy. The
    message is the rule."""


class Finding(NamedTuple):
    """What a matcher found: whether the answer is right, and the rule that said so, in a few words
    that are the same for all answers that it decides."""

    right: bool
    rule: str


@contextmanager
def reading_gold() -> Iterator[None]:
    """Within it, text that cannot be read is the gold's fault."""
    try:
        yield
    except Unparsable as failure:
        raise GoldUnparsable(str(failure)) from failure


@dataclass(frozen=True)
class Gold:
    """The part of a problem that decides what is right; hashable, so that checks can be shared.

    `tolerance` holds (rule, size) pairs; the rule is decimals, abs or rel.
    """

    answer: str
    answer_type: str
    choices: tuple[str, ...] = ()
    unit: str | None = None
    tolerance: tuple[tuple[str, float], ...] = ()

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Gold":
        """The inverse of `dataclasses.asdict` after a round through JSON, which has no tuples."""
        tolerance = tuple((rule, size) for rule, size in fields["tolerance"])
        return cls(**{**fields, "choices": tuple(fields["choices"]), "tolerance": tolerance})
