"""How much of an answer repeats what stood in it before."""

import re
from collections.abc import Hashable, Sequence

_PIECE = re.compile(r"\w+|[^\w\s]")

LOOP_NGRAM = 20
MAX_REPEATED = 0.2
"""An answer loops if more than this share of its n-grams of `LOOP_NGRAM` stand in it before. This
rule is ours: papers speak of degenerate or repetitive answers without a published one."""


def repeated_share(items: Sequence[Hashable], ngram: int) -> float:
    """Return the share of the n-grams of `items` that stand in it before; 0 without any.

    An answer that says one sentence over and over comes near 1.
    """
    grams = list(zip(*(items[start:] for start in range(ngram)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def pieces(text: str) -> list[str]:
    """Return the words, numbers and signs of a text, which stand for its tokens."""
    return _PIECE.findall(text)


def loops(text: str) -> bool:
    """Return whether a text says the same again and again."""
    return repeated_share(pieces(text), LOOP_NGRAM) > MAX_REPEATED
