"""Surrogates by themselves: bounds on the loss, gates, weights, and their flags.

Mutations, each seen red:
    the dual clip also for A > 0, or flagged there; not flagged at all -> dual clip golden
    MAX_LOG_RATIO left out of a band with an upper end or a dual clip -> bounded
    CISPO's tokens flagged as cut off, or all flagged as inside -> CISPO
    a gate without its 4 / tau; the kernel without e^decay -> gate, kernel
    GMPO's clipped token with a gradient, or the rest of its row without one -> GMPO
    DPPO's cap of the weight left out -> DPPO
"""

import math

import mpmath
import pytest
import torch

from tests.support.objective_cases import Row, batch_of, sequences_of, stats_of
from vlm_rl.objectives import (
    CISPO,
    DPPO,
    GRPO,
    BinaryKLBand,
    CappedWeight,
    Clipped,
    ClippedGeometricMean,
    LengthBand,
    Objective,
    PositionBand,
    ProbabilityBand,
    SequenceKernel,
    SequenceMeanOfTokenMeans,
    SequenceSumRatio,
    SoftGate,
    Surrogate,
    SurrogateLoss,
    Tokens,
)


def applied(
    surrogate: Surrogate, log_ratios: list[float], advantage: float, old: float = -1.0
) -> tuple[SurrogateLoss, list[float]]:
    """Apply to the token ratios of one row; return also the gradient of its summed loss."""
    new = [old + value for value in log_ratios]
    row = Row(new, [old] * len(new), new, new, new, [0] * len(new), advantage, 0)
    stats, batch = stats_of([row]), batch_of([row])
    tokens = Tokens.of(stats.logprobs, batch)
    result = surrogate(tokens.log_ratio, tokens)
    result.loss.sum().backward()
    return result, stats.logprobs.grad[0].tolist()


@pytest.mark.parametrize(
    ("dual_clip", "advantage", "ratio", "loss", "gradient", "dual"),
    [  # with A < 0: min(max(-r A, -clip(r) A), -c A); the gradient of a free token is -r A
        (3.0, -1.0, 4.0, 3.0, 0.0, True),
        (3.0, -1.0, 2.0, 2.0, 2.0, False),
        (3.0, -1.0, 0.5, 0.8, 0.0, False),
        (3.0, 1.0, 4.0, -1.2, 0.0, False),
        (4.0, -1.0, 6.0, 4.0, 0.0, True),  # the two-sided bound, r <- min(r, 4)
        (4.0, 1.0, 6.0, -1.2, 0.0, False),
    ],
)
def test_dual_clip_golden(dual_clip, advantage, ratio, loss, gradient, dual):
    result, grad = applied(Clipped(0.2, 0.2, dual_clip), [math.log(ratio)], advantage)
    assert result.loss.item() == pytest.approx(loss, rel=1e-12)
    assert grad == pytest.approx([gradient], rel=1e-12)
    assert result.clipped_dual.item() == dual


@pytest.mark.parametrize(
    "surrogate",
    [
        Clipped(0.2, 0.2),
        Clipped(0.2, 0.2, math.inf),
        LengthBand(0.1, 0.1, math.inf),
        PositionBand(0.1, 0.1, math.inf, 0.5),
        ClippedGeometricMean(0.4, 0.4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ratio_that_the_band_lets_through_is_bounded_and_flagged(surrogate):
    result, grad = applied(surrogate, [1e4], -1.0)
    assert result.loss.item() == pytest.approx(math.exp(20))
    assert grad == [0]
    assert result.clipped_dual.item()


def test_wide_band_is_bounded_at_its_upper_end():
    result, grad = applied(LengthBand(0.1, 1e5, 1e6), [1e4], 1.0)
    assert result.loss.item() == pytest.approx(-math.exp(20))
    assert grad == [0]


BANDS = {
    "Clipped": Clipped(0.2, 0.2, 3.0),
    "LengthBand": LengthBand(0.1, 0.1, 1.0),
    "PositionBand": PositionBand(0.1, 0.1, 1.0, 0.5),
    "ClippedGeometricMean": ClippedGeometricMean(0.4, 0.4),
    "ProbabilityBand": ProbabilityBand(0.1, 20.0),
    "CappedWeight": CappedWeight(0.2, 0.2),
    "SoftGate": SoftGate(1.0, 1.05),
    "SequenceKernel": SequenceKernel(2, 3, 3, 2),
}


@pytest.mark.parametrize("name", BANDS)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_tokens_without_a_gradient_are_the_clipped_ones(name, advantage):
    log_ratios = [-0.9, -0.45, -0.02, 0.0, 0.02, 0.45, 0.9, 1.3]
    result, grad = applied(BANDS[name], log_ratios, advantage)
    cut = result.clipped_low | result.clipped_high | result.clipped_dual
    assert [value == 0 for value in grad] == cut[0].tolist()
    assert not (cut & result.inside).any()
    assert result.inside[0, 3]  # the unmoved one
    assert not (result.clipped_low & (torch.tensor(log_ratios) > 0)).any()
    assert not (result.clipped_high & (torch.tensor(log_ratios) < 0)).any()


def test_cispo_flags_capped_weights_and_cuts_no_gradient():
    ratios = [0.5, 0.9, 1.2, 4.0]
    result, grad = applied(CappedWeight(0.2, 0.28), [math.log(r) for r in ratios], -2.0)
    assert result.inside.tolist() == [[False, True, True, False]]
    assert not (result.clipped_low | result.clipped_high | result.clipped_dual).any()
    assert grad == pytest.approx([2 * value for value in (0.8, 0.9, 1.2, 1.28)], rel=1e-12)
    _, unbounded = applied(CappedWeight(None, 4.0), [math.log(r) for r in (0.01, 9.0)], -2.0)
    assert unbounded == pytest.approx([2 * 0.01, 2 * 5.0], rel=1e-12)
    _, floored = applied(CappedWeight(0.0, 4.0), [math.log(0.01)], -2.0)
    assert floored == pytest.approx([2.0], rel=1e-12)


@pytest.mark.parametrize(("advantage", "tau"), [(1.0, 0.7), (-1.0, 2.5)])
def test_gate_is_steepest_at_one(advantage, tau):
    # f(1) = 4 / tau / 2 and f'(1) = 1; f' = 4 sigmoid (1 - sigmoid) falls on both sides
    result, (at_one, below, above) = applied(SoftGate(0.7, 2.5), [0.0, -0.5, 0.5], advantage)
    assert result.loss[0, 0].item() == pytest.approx(-2 / tau * advantage, rel=1e-12)
    assert at_one == pytest.approx(-advantage, rel=1e-12)
    assert abs(below) < math.exp(-0.5)
    assert abs(above) < math.exp(0.5)


@pytest.mark.parametrize(("advantage", "power", "decay"), [(1.0, 2, 3), (-1.0, 3, 2)])
def test_kernel_is_one_at_one_and_largest_at_power_over_decay(advantage, power, decay):
    ratios = [1.0, power / decay, 0.97 * power / decay, 1.03 * power / decay, 1e-3, 20.0]
    _, grad = applied(SequenceKernel(2, 3, 3, 2), [math.log(r) for r in ratios], advantage)
    weights = [value / -advantage for value in grad]
    assert weights[0] == pytest.approx(1, rel=1e-12)
    assert max(weights) == weights[1]
    assert max(weights[-2:]) < 1e-4


def test_gmpo_drops_a_clipped_token_and_keeps_its_row():
    # y = 0.4 (cut), -0.3: the row's value is e^0.05, and a free token weighs half of it
    result, grad = applied(ClippedGeometricMean(0.4, 0.4), [0.9, -0.3], 1.0)
    value = math.exp(0.05)
    assert result.loss.tolist()[0] == pytest.approx([-value, -value], rel=1e-12)
    assert grad == pytest.approx([0, -value], rel=1e-12)
    assert result.clipped_high.tolist() == [[True, False]]


@pytest.mark.parametrize(("old", "kept"), [(-8.0, True), (-1.5, False)])
def test_dppo_cuts_by_probability_and_caps_the_ratio(old, kept):
    # r = 54.6 of a rare token: 0.0003 -> 0.018; r = 2 of a likely one: 0.22 -> 0.45
    result, grad = applied(ProbabilityBand(0.1, 20.0), [4.0 if kept else math.log(2)], 1.0, old=old)
    assert result.clipped_high.item() == (not kept)
    assert grad == pytest.approx([-20.0 if kept else 0.0], rel=1e-12)
    _, other_way = applied(ProbabilityBand(0.1, 20.0), [math.log(2)], -1.0, old=-1.5)
    assert other_way == pytest.approx([2.0], rel=1e-12)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("new", [-1e-9, -1e-4, -0.2, -1.0, -3.0, -12.0, -40.0])
@pytest.mark.parametrize("old", [-1e-9, -0.05, -0.7, -2.0, -9.0])
def test_binary_kl_matches_float64(old, new, advantage):
    """Against the two-outcome divergence, with mpmath where float64 itself would lose digits."""
    p, q = mpmath.exp(old), mpmath.exp(new)
    kl = float(p * (old - new) + (1 - p) * mpmath.log((1 - p) / (1 - q)))
    toward = new > old if advantage > 0 else new < old
    for max_kl in (kl * 0.99, kl * 1.01):
        if max_kl <= 1e-6:
            continue  # two probabilities that are as good as equal
        _, grad = applied(BinaryKLBand(max_kl, 20.0), [new - old], advantage, old=old)
        assert bool(grad[0] == 0) == (toward and kl > max_kl)


@pytest.mark.parametrize(
    "objective",
    [
        GRPO(dual_clip=3.0),
        Objective(SequenceSumRatio(), Clipped(0.2, 0.2, 3.0), SequenceMeanOfTokenMeans()),
    ],
    ids=["tokens", "sequences"],
)
def test_objective_reports_the_dual_clip_of_a_sequence(objective):
    new, old = [-0.1], [-2.0]
    sequences = sequences_of(objective, [[Row(new, old, new, new, new, [0], -1.0, 0)]])
    assert sequences.clipped_dual.tolist() == [1]
    assert sequences.accepted.tolist() == [0]
    assert sequences.weight.tolist() == [0]


def test_capped_weights_are_accepted_and_dropped_tokens_are_not():
    # CISPO accepts all, capped weights too; DPPO does not accept what it drops
    new, old = [-0.5, -1.0], [-1.0, -1.0]
    row = Row(new, old, new, new, new, [0, 0], 1.0, 0)
    cispo = sequences_of(CISPO(clip_high=0.5), [[row]])
    assert cispo.accepted.tolist() == [1]
    assert cispo.inside.tolist() == [0.5]
    assert cispo.weight.tolist() == [(1.5 + 1) / 2]
    dppo = sequences_of(DPPO(9, 0.1), [[row]])
    assert dppo.accepted.tolist() == [0.5]
    assert dppo.weight.tolist() == [0.5 / 9]
