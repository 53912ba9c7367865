"""FSPO: its band under each reading of the drift, its dual clip, and its state.

Mutations, each seen red:
    the band by the length instead of its root; the drift not by the length -> bands golden
    `abs` left out of widen -> bands golden
    the centre's band not widened to hold 0 -> holds an unmoved sequence
    minimum and maximum for the clamp, which halve a gradient at the end -> keeps the gradient
    the dual bound without its root, or also for A > 0 -> dual clip golden
    the average moved before it is used, or at the wrong rate, or with drift none -> average
    an empty state_dict -> state
    the dual bound not raised to the band's end -> never falls inside
"""

import math

import pytest
import torch

from tests.support.objective_cases import Row, evaluate, fixture, random_rows
from vlm_rl.objectives import FSPO, LengthBand, Tokens
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO

UNIT = (1.0, -1.0, -1.0, 1.0)
LENGTHS = torch.tensor([2, 4, 3, 1])


def band(drift: str, mean_log_ratio: float) -> LengthBand:
    made = LengthBand(0.15, 0.15, 10.0, drift, None if drift == "none" else 0.1)
    made.load_state_dict({"mean_log_ratio": mean_log_ratio})
    return made


ROOTS = [0.212132, 0.3, 0.259808, 0.15]  # 0.15 sqrt(L)
WIDENED = [0.252132, 0.38, 0.319808, 0.17]  # and 0.02 L more


@pytest.mark.parametrize(
    ("drift", "mean_log_ratio", "low", "high"),
    [
        ("none", 0.0, ROOTS, ROOTS),
        ("widen", -0.02, WIDENED, WIDENED),
        ("widen", 0.02, WIDENED, WIDENED),
        ("centre", -0.02, WIDENED, [0.172132, 0.22, 0.199808, 0.13]),
        ("centre", 0.02, [0.172132, 0.22, 0.199808, 0.13], WIDENED),
    ],
)
def test_bands_golden(drift, mean_log_ratio, low, high):
    lower, upper = band(drift, mean_log_ratio).band(LENGTHS)
    assert lower.tolist() == pytest.approx([-value for value in low], abs=1e-6)
    assert upper.tolist() == pytest.approx(high, abs=1e-6)


def test_half_widths_may_differ():
    lower, upper = LengthBand(0.1, 0.3, 1.0).band(torch.tensor([4, 9]))
    assert lower.tolist() == pytest.approx([-0.2, -0.3])
    assert upper.tolist() == pytest.approx([0.6, 0.9])


@pytest.mark.parametrize("mean_log_ratio", [-1.0, -0.1, 0.0, 0.1, 1.0])
@pytest.mark.parametrize("drift", ["centre", "widen"])
def test_band_holds_an_unmoved_sequence_however_far_the_average_is(drift, mean_log_ratio):
    lower, upper = band(drift, mean_log_ratio).band(torch.tensor([1, 10, 100, 10_000]))
    assert bool((lower <= 0).all())
    assert bool((upper >= 0).all())


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("mean_log_ratio", [-1.0, 1.0])
def test_unmoved_sequence_keeps_the_whole_gradient_at_the_end_of_the_band(
    advantage, mean_log_ratio
):
    objective = FSPO(0.1, 0.1, 10.0, "centre", 0.1)
    objective.load_state_dict({"surrogate": {"mean_log_ratio": mean_log_ratio}})
    same = [-1.0, -2.0]
    rows = [Row(same, same, same, same, same, [0, 0], advantage, 0)]
    assert evaluate(objective, rows).grad == [[-advantage, -advantage]]


def test_dual_clip_golden():
    # L = 4 with S = 1.5: e^1.5 = 4.481689 is beyond the band and free with A = -1, until the bound
    # e^(0.5 sqrt 4) = 2.718282; with A = 1 the band cuts at e^(0.15 sqrt 4) = 1.349859
    new, old = [-1.0, -1.0, -1.0, -0.5], [-1.25, -1.25, -1.25, -1.25]
    row = Row(new, old, new, new, new, [0] * 4, -1.0, 0)
    free = evaluate(FSPO(0.15, 0.15, 10.0), [row])
    held = evaluate(FSPO(0.15, 0.15, 0.5), [row])
    assert free.loss == pytest.approx(4.481689, abs=1e-6)
    assert free.grad[0] == pytest.approx([4.481689] * 4, abs=1e-6)
    assert held.loss == pytest.approx(2.718282, abs=1e-6)
    assert held.grad == [[0, 0, 0, 0]]
    assert held.statistics["policy/clip_frac_dual"] == (4, 4)
    raised = Row(new, old, new, new, new, [0] * 4, 1.0, 0)
    assert evaluate(FSPO(0.15, 0.15, 0.5), [raised]).loss == pytest.approx(-1.349859, abs=1e-6)


def observed(objective: FSPO, rows: list[Row]) -> float:
    """Return the loss of a minibatch, then let the objective observe its metrics."""
    result = evaluate(objective, rows)
    metrics = {name: value / count for name, (value, count) in result.statistics.items()}
    objective.observe(metrics)
    return result.loss


@pytest.mark.parametrize(
    ("drift", "moved", "then"), [("centre", -0.0003, -0.00057), ("none", 0.0, 0.0)]
)
def test_average_is_moved_after_it_is_used(drift, moved, then):
    # the ten log-ratios add up to -0.03, so from 0 the average moves by 0.1 * -0.003, and then to
    # 0.9 * -0.0003 + 0.1 * -0.003
    objective = FSPO(0.15, 0.15, 10.0, drift, None if drift == "none" else 0.1)
    rows = fixture(UNIT)
    assert observed(objective, rows) == pytest.approx(-0.068027, abs=1e-6)
    state = objective.state_dict()["surrogate"]["mean_log_ratio"]
    assert state == pytest.approx(moved, abs=1e-12)
    # the second minibatch is cut at sqrt(2) 0.15 + 2 moved
    expected = -0.068027 + (1.236311 - math.exp(0.212132 + 2 * moved)) / 4
    assert observed(objective, rows) == pytest.approx(expected, abs=1e-6)
    state = objective.state_dict()["surrogate"]["mean_log_ratio"]
    assert state == pytest.approx(then, abs=1e-12)


@pytest.mark.parametrize("drift", ["centre", "widen"])
def test_state_resumes_where_it_stopped(drift):
    def fresh() -> FSPO:
        return FSPO(0.05, 0.05, 0.5, drift, 0.3)

    minibatches = [random_rows(seed) for seed in range(6)]
    whole, first, second = fresh(), fresh(), fresh()
    expected = [observed(whole, rows) for rows in minibatches]
    before = [observed(first, rows) for rows in minibatches[:3]]
    assert first.observes
    assert not FSPO(0.05, 0.05, 0.5).observes
    second.load_state_dict(first.state_dict())
    assert before + [observed(second, rows) for rows in minibatches[3:]] == expected
    stateless = fresh()
    assert [observed(stateless, rows) for rows in minibatches[3:]] != expected[3:]


@pytest.mark.parametrize("drift", ["none", "centre", "widen"])
@pytest.mark.parametrize("mean_log_ratio", [-0.02, 0.0, 0.02])
@pytest.mark.parametrize("length", [1, 10, 1000, 20_000])
def test_dual_clip_never_falls_inside_the_band(drift, mean_log_ratio, length):
    """What the band accepts keeps its gradient, also with A < 0 (m L = 20 at L = 1000)."""
    surrogate = LengthBand(0.15, 0.15, 0.2, drift, None if drift == "none" else 0.1)
    surrogate.load_state_dict({"mean_log_ratio": mean_log_ratio if drift != "none" else 0.0})
    _, upper = surrogate.band(torch.tensor([[length]]))
    moved = (0.999 * upper).clamp(max=0.999 * MAX_LOG_RATIO).requires_grad_()
    zeros = torch.zeros(1, length, dtype=torch.float64)
    tokens = Tokens(zeros, zeros, zeros, zeros - 1, torch.ones_like(zeros, dtype=torch.bool))
    result = surrogate(moved, tokens)
    assert not result.clipped_dual.any()
    result.loss[0, 0].backward()
    assert moved.grad.item() != 0
