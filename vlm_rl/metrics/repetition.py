"""How much of an answer repeats what stood in it before."""

from torch import Tensor


def repeated_share(token_ids: Tensor, ngram: int) -> float:
    """Return the share of the n-grams of `token_ids` [T] that stand in it before; 0 without any.

    An answer that says one sentence over and over comes near 1.
    """
    tokens = token_ids.tolist()
    grams = list(zip(*(tokens[start:] for start in range(ngram)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
