"""Which parts of an objective do not go together, and what to take instead."""

import warnings
from collections.abc import Sequence

from vlm_rl.objectives.aggregations import (
    Aggregation,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
)
from vlm_rl.objectives.ratios import Ratio, SequenceMeanRatio, SequenceSumRatio
from vlm_rl.objectives.surrogates import Clipped, Surrogate
from vlm_rl.objectives.token_weights import TokenWeight


def refuse_unsound(
    ratio: Ratio,
    surrogate: Surrogate,
    aggregation: Aggregation,
    token_weights: Sequence[TokenWeight],
) -> None:
    """Raise ValueError with the rule and the alternative; warn of what is only unusual."""
    names = {part: type(part).__name__ for part in (ratio, surrogate, aggregation)}
    if surrogate.only_ratios and not isinstance(ratio, surrogate.only_ratios):
        allowed = " or ".join(kind.__name__ for kind in surrogate.only_ratios)
        raise ValueError(
            f"{names[surrogate]} is defined for {allowed}, got {names[ratio]}; take that ratio, "
            "or Clipped, which goes with any"
        )
    whole = isinstance(ratio, SequenceSumRatio) and surrogate.through_ratio
    if whole and not isinstance(aggregation, SequenceMeanOfTokenMeans):
        raise ValueError(
            f"SequenceSumRatio with {names[aggregation]} weighs a sequence by its length twice, "
            "once in the gradient of the ratio; take SequenceMeanOfTokenMeans"
        )
    if whole and isinstance(surrogate, Clipped) and surrogate.dual_clip is None:
        raise ValueError(
            "SequenceSumRatio with Clipped needs dual_clip, got None: the ratio of a long sequence "
            "with A < 0 has no bound; take 3.0, or LengthBand"
        )
    per_sequence = (SequenceMeanOfTokenMeans, SequenceMeanOfTokenSums)
    if isinstance(ratio, SequenceMeanRatio) and not isinstance(aggregation, per_sequence):
        warnings.warn(
            f"SequenceMeanRatio with {names[aggregation]} is LUSPO with another normalizer; GSPO "
            "has SequenceMeanOfTokenMeans, LUSPO SequenceMeanOfTokenSums",
            stacklevel=3,
        )
    for weight in token_weights:
        if not weight.per_sequence and surrogate.reduces_sequence:
            raise ValueError(
                f"{names[surrogate]} gives a sequence one loss, which {type(weight).__name__} "
                "would weigh token by token; take a weight of whole sequences"
            )
