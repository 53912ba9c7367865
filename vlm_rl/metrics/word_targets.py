"""Does a policy hit a number of words that it is asked for? Ruler's two matches.

Bands, request and the way of counting are those of the authors' code (arXiv:2409.18943,
github.com/Geaming2002/Ruler, `src/utils`): a hit is a number of words in (low, high].
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

TARGET_WORDS = "target_words"
"""The key of `meta` under which a problem has its target."""
_WORD = re.compile(r"\w+")


class WordBand(NamedTuple):
    """Words in (low, high] hit a target; `level` is the paper's, from short to long."""

    precise: tuple[float, float]
    flexible: tuple[float, float]
    level: int


WORD_TARGETS: Mapping[int, WordBand] = {
    10: WordBand((0, 20), (0, 20), 0),
    30: WordBand((20, 40), (20, 40), 0),
    50: WordBand((40, 60), (40, 60), 0),
    80: WordBand((70, 90), (60, 100), 0),
    150: WordBand((130, 170), (100, 200), 1),
    300: WordBand((280, 320), (200, 400), 1),
    500: WordBand((450, 550), (400, 600), 1),
    700: WordBand((630, 770), (600, 800), 2),
    800: WordBand((800, math.inf), (800, math.inf), 2),
}
"""The published ones; 800 is "more than 800"."""


def word_request(words: int) -> str:
    """Return the sentence that asks for `words`."""
    number = f"more than {words}" if math.isinf(WORD_TARGETS[words].precise[1]) else str(words)
    return f"The response should have a word count of {number} words."


def count_words(text: str) -> int:
    """Return the number of runs of letters, digits and underscores, so `don't` has two."""
    return len(_WORD.findall(text))


def hits(num_words: int, target: int) -> tuple[bool, bool]:
    """Return the precise and the flexible match of a response of so many words."""
    band = WORD_TARGETS[target]
    return _inside(num_words, band.precise), _inside(num_words, band.flexible)


def _inside(number: int, band: tuple[float, float]) -> bool:
    low, high = band
    return low < number <= high
