"""How much longer than need be is an answer? YapBench's measures (arXiv:2601.00624)."""

from collections.abc import Mapping, Sequence

import numpy as np


def yap_score(text: str, baseline: str) -> int:
    """Return max(0, characters of `text` - characters of `baseline`), the shortest answer that is
    enough, as somebody has written it."""
    return max(0, len(text) - len(baseline))


def yap_index(scores: Mapping[str, Sequence[float]]) -> float:
    """Return the mean over categories of the median YapScore of each.

    Raises ValueError without scores or for a category without any.
    """
    if not scores or not all(len(of_category) for of_category in scores.values()):
        raise ValueError("a YapIndex needs at least one YapScore of every category")
    return float(np.mean([np.median(of_category) for of_category in scores.values()]))
