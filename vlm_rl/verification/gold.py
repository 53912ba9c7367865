"""What an answer is checked against, what a matcher returns, and the two ways reading can fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_CHARACTERS = 1000
"""Longer answers are refused unread: no real answer is longer, and parsers take seconds on them."""


class Unparsable(ValueError):
    """The answer cannot be read as what its gold asks for; the message is the rule."""


class GoldUnparsable(ValueError):
    """The gold itself cannot be read; the message is the rule. This is a fault of the data and
    says nothing about the policy."""


class Finding(NamedTuple):
    """Whether an answer is right, and the rule that decided. A rule is a few words, the same for
    every answer that it decides."""

    right: bool
    rule: str


@contextmanager
def reading_gold() -> Iterator[None]:
    """Turn Unparsable into GoldUnparsable: inside this context only the gold is read."""
    try:
        yield
    except Unparsable as failure:
        raise GoldUnparsable(str(failure)) from failure


@dataclass(frozen=True)
class Gold:
    """The part of a problem that decides what is right. Hashable, so that equal questions are
    checked once.

    `tolerance` holds (rule, size) pairs; the rule is decimals, abs or rel.
    """

    answer: str
    answer_type: str
    choices: tuple[str, ...] = ()
    unit: str | None = None
    tolerance: tuple[tuple[str, float], ...] = ()

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Gold":
        """Invert `dataclasses.asdict` after a round through JSON, which has no tuples."""
        tolerance = tuple((rule, size) for rule, size in fields["tolerance"])
        return cls(**{**fields, "choices": tuple(fields["choices"]), "tolerance": tolerance})
