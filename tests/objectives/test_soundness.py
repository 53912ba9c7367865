"""Constructors refuse parts that do not go together, with the rule and an alternative.

Mutations, each seen red: every check of `soundness` and every `only_ratios` left out.
"""

import warnings

import pytest
import torch

from tests.support.objective_cases import build, discover
from vlm_rl.objectives import (
    CTPO,
    GMPO,
    VESPO,
    CappedWeight,
    Clipped,
    ClippedGeometricMean,
    EngineSequenceSumRatio,
    GeometricRejection,
    LengthBand,
    LocalTokenMean,
    Objective,
    PositionBand,
    PrefixSumRatio,
    ProbabilityBand,
    Reinforce,
    SequenceKernel,
    SequenceMeanOfScaledSums,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
    SequenceMeanOwnTokenRatio,
    SequenceMeanRatio,
    SequenceMIS,
    SequenceSumRatio,
    SequenceTIS,
    SoftGate,
    TokenMean,
    TokenRatio,
    TokenTIS,
    TokenWeight,
)

MEANS = SequenceMeanOfTokenMeans()
DUAL = Clipped(0.2, 0.2, 3.0)
BAND = LengthBand(0.1, 0.1, 1.0)


class OfTokens(TokenWeight):
    name = "of_tokens"

    def __call__(self, tokens, batch, scalars):
        return torch.ones_like(tokens.logprobs)


class OfSequences(OfTokens):
    per_sequence = True


@pytest.mark.parametrize(
    ("ratio", "surrogate", "message"),
    [
        (TokenRatio(), BAND, "LengthBand is defined for SequenceSumRatio, got TokenRatio"),
        (SequenceMeanRatio(), BAND, "defined for SequenceSumRatio, got SequenceMeanRatio"),
        (PrefixSumRatio(), BAND, "defined for SequenceSumRatio, got PrefixSumRatio"),
        (
            TokenRatio(),
            PositionBand(0.1, 0.1, 1.0, 0.5),
            "PositionBand is defined for PrefixSumRatio, got TokenRatio",
        ),
        (
            SequenceMeanRatio(),
            ClippedGeometricMean(0.4, 0.4),
            "ClippedGeometricMean is defined for TokenRatio, got SequenceMeanRatio",
        ),
        (
            SequenceMeanRatio(),
            SequenceKernel(2, 3, 3, 2),
            "SequenceKernel is defined for SequenceSumRatio, got SequenceMeanRatio",
        ),
        (
            SequenceSumRatio(),
            ProbabilityBand(0.1, 20.0),
            "ProbabilityBand is defined for TokenRatio, got SequenceSumRatio",
        ),
        (SequenceSumRatio(), Reinforce(), "Reinforce is defined for TokenRatio"),
    ],
)
def test_surrogate_refuses_ratios_that_it_is_not_defined_for(ratio, surrogate, message):
    with pytest.raises(ValueError, match=message) as refusal:
        Objective(ratio, surrogate, MEANS)
    assert "or Clipped, which goes with any" in str(refusal.value)
    assert "\n" not in str(refusal.value)


BY_TOKENS = [
    TokenMean(),
    LocalTokenMean(),
    SequenceMeanOfTokenSums(),
    SequenceMeanOfScaledSums(8),
]


@pytest.mark.parametrize("aggregation", BY_TOKENS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("surrogate", [BAND, DUAL, SoftGate(1, 1)], ids=lambda v: type(v).__name__)
def test_ratio_of_the_whole_sequence_refuses_a_second_length_weight(aggregation, surrogate):
    rule = r"weighs a sequence by its length twice.*take SequenceMeanOfTokenMeans"
    for ratio in (SequenceSumRatio(), EngineSequenceSumRatio()):
        with pytest.raises(ValueError, match=rule):
            Objective(ratio, surrogate, aggregation)


def test_weights_without_gradient_of_the_whole_sequence_go_with_token_means():
    for surrogate in (SequenceKernel(2, 3, 3, 2), CappedWeight(None, 4.0)):
        Objective(SequenceSumRatio(), surrogate, TokenMean())


@pytest.mark.parametrize(
    ("ratio", "band"),
    [(SequenceSumRatio(), "LengthBand"), (PrefixSumRatio(), "PositionBand")],
)
def test_ratio_that_grows_with_length_refuses_a_clip_without_a_bound(ratio, band):
    with pytest.raises(ValueError, match=f"needs dual_clip, got None.*take 3.0, or {band}"):
        Objective(ratio, Clipped(0.2, 0.2), MEANS)
    Objective(ratio, DUAL, MEANS)


@pytest.mark.parametrize(
    "aggregation",
    [TokenMean(), SequenceMeanOfScaledSums(8)],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    ("ratio", "surrogate", "name"),
    [
        (SequenceMeanRatio(), Clipped(0.2, 0.2), "SequenceMeanRatio"),
        (SequenceMeanOwnTokenRatio(), Clipped(0.2, 0.2), "SequenceMeanOwnTokenRatio"),
        (TokenRatio(), ClippedGeometricMean(0.4, 0.4), "ClippedGeometricMean"),
    ],
)
def test_sequence_means_under_a_normalizer_of_tokens_warn(aggregation, ratio, surrogate, name):
    with pytest.warns(UserWarning, match=f"^{name} with .* as LUSPO does") as caught:
        Objective(ratio, surrogate, aggregation)
    assert caught[0].filename == __file__


def test_loss_of_a_sequence_refuses_weights_of_tokens():
    message = "one loss, which OfTokens would weigh token by token; take a weight of whole"
    with pytest.raises(ValueError, match=message):
        GMPO(token_weights=[OfTokens()])
    GMPO(token_weights=[OfSequences()])
    CTPO(token_weights=[OfTokens()])


@pytest.mark.parametrize("cls", discover(), ids=lambda cls: cls.__name__)
def test_no_preset_is_unusual(cls):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(cls)


@pytest.mark.parametrize("weight", [TokenTIS(), SequenceTIS(5.0), SequenceMIS()])
def test_mismatch_is_not_corrected_beside_a_ratio_that_has_it(weight):
    with pytest.raises(ValueError, match="corrects for the engine's probabilities, which Engine"):
        VESPO(behaviour="engine", token_weights=[weight])
    VESPO(token_weights=[SequenceTIS(5.0)])
    VESPO(behaviour="engine", token_weights=[GeometricRejection()])
