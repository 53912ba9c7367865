"""Refuse parts of an objective that do not go together, and name what to take instead."""

import warnings
from collections.abc import Sequence

from vlm_rl.objectives.aggregations import (
    Aggregation,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
)
from vlm_rl.objectives.ratios import (
    EngineSequenceSumRatio,
    PrefixSumRatio,
    Ratio,
    SequenceMeanRatio,
    SequenceSumRatio,
)
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.surrogates import Clipped, Surrogate
from vlm_rl.objectives.token_weights import TokenWeight


def refuse_unsound(
    ratio: Ratio,
    surrogate: Surrogate,
    aggregation: Aggregation,
    token_weights: Sequence[TokenWeight],
) -> None:
    """Raise ValueError with the rule and the alternative; warn if the parts are only unusual."""
    _check_ratio_level(ratio, surrogate)
    _check_length_weight(ratio, surrogate, aggregation)
    _check_bound(ratio, surrogate)
    _check_token_weights(ratio, surrogate, token_weights)
    _check_groups(surrogate, aggregation, token_weights)


def refuse_several_group_losses(surrogate: Surrogate, regularizers: Sequence[Regularizer]) -> None:
    """Raise ValueError for more than one loss of whole groups."""
    parts: Sequence[Surrogate | Regularizer] = (surrogate, *regularizers)
    several = [part for part in parts if part.group_loss is not None]
    if len(several) > 1:
        names = " and ".join(map(_name, several))
        raise ValueError(
            f"{names} are losses of whole groups, and an update knows the terms of one; keep one"
        )


def _name(part: object) -> str:
    return type(part).__name__


def _check_ratio_level(ratio: Ratio, surrogate: Surrogate) -> None:
    if surrogate.only_ratios and not isinstance(ratio, surrogate.only_ratios):
        allowed = " or ".join(kind.__name__ for kind in surrogate.only_ratios)
        raise ValueError(
            f"{_name(surrogate)} is defined for {allowed}, got {_name(ratio)}; take that ratio, "
            "or Clipped, which goes with any"
        )


def _check_length_weight(ratio: Ratio, surrogate: Surrogate, aggregation: Aggregation) -> None:
    """Refuse a second weight by length: an aggregation weighs a sequence loss at each token."""
    if not surrogate.through_ratio:
        return
    by_tokens = not isinstance(aggregation, SequenceMeanOfTokenMeans)
    if isinstance(ratio, SequenceSumRatio) and by_tokens:
        raise ValueError(
            f"SequenceSumRatio with {_name(aggregation)} weighs a sequence by its length twice, "
            "once in the gradient of the ratio; take SequenceMeanOfTokenMeans"
        )
    by_sequences = (SequenceMeanOfTokenMeans, SequenceMeanOfTokenSums)
    whole = isinstance(ratio, SequenceMeanRatio) or surrogate.reduces_sequence
    if whole and not isinstance(aggregation, by_sequences):
        part = surrogate if surrogate.reduces_sequence else ratio
        warnings.warn(
            f"{_name(part)} with {_name(aggregation)} weighs a sequence by its length as LUSPO "
            "does, under another normalizer; SequenceMeanOfTokenMeans weighs all alike, "
            "SequenceMeanOfTokenSums is LUSPO's",
            stacklevel=4,
        )


def _check_bound(ratio: Ratio, surrogate: Surrogate) -> None:
    grows = isinstance(ratio, (SequenceSumRatio, PrefixSumRatio))
    if grows and isinstance(surrogate, Clipped) and surrogate.dual_clip is None:
        band = "LengthBand" if isinstance(ratio, SequenceSumRatio) else "PositionBand"
        raise ValueError(
            f"{_name(ratio)} with Clipped needs dual_clip, got None: the ratio of a long sequence "
            f"with A < 0 has no bound; take 3.0, or {band}"
        )


def _check_token_weights(
    ratio: Ratio, surrogate: Surrogate, token_weights: Sequence[TokenWeight]
) -> None:
    for weight in token_weights:
        if weight.corrects and isinstance(ratio, EngineSequenceSumRatio):
            raise ValueError(
                f"{_name(weight)} corrects for the engine's probabilities, which {_name(ratio)} "
                "has in its ratio already: they would count twice; drop one of them"
            )
        if not weight.per_sequence and surrogate.reduces_sequence:
            raise ValueError(
                f"{_name(surrogate)} gives a sequence one loss, which {_name(weight)} would weigh "
                "token by token; take a weight of whole sequences"
            )


def _check_groups(
    surrogate: Surrogate, aggregation: Aggregation, token_weights: Sequence[TokenWeight]
) -> None:
    """Refuse what would make of a loss of groups another one."""
    if surrogate.group_loss is None:
        return
    if not isinstance(aggregation, SequenceMeanOfTokenMeans):
        raise ValueError(
            f"{_name(surrogate.group_loss)} is a loss of the mean of each sequence's tokens, which "
            f"{_name(aggregation)} does not take; take SequenceMeanOfTokenMeans"
        )
    if token_weights:
        raise ValueError(
            f"{_name(token_weights[0])} would weigh tokens of {_name(surrogate.group_loss)}, whose "
            "loss is not a sum over tokens; leave the weight out"
        )
