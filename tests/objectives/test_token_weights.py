"""Token weights: goldens, plain loops and invariances.

Mutations, each seen red:
    old and sampling swapped in the mismatch -> golden
    the mean instead of the sum in the sequence weights -> golden, loop
    `detach` left out of the objective's product -> gradient golden, gradient in a weight
    the bound left out of K3Rejection -> extreme mismatch
    a token hashed without its position, its prefix or its problem -> uniforms of positions
    the random choice keyed by the row's index in the batch -> invariances of ClipCov
    OffPolicyMask without its condition on the advantage -> golden
"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.support.objective_cases import (
    assert_close,
    assert_same,
    batch_of,
    discover_parts,
    evaluate,
    evaluate_parts,
    fixture,
    random_rows,
    stats_of,
)
from vlm_rl.objectives import (
    GRPO,
    LUSPO,
    ClipCov,
    GeometricRejection,
    K3Rejection,
    OffPolicyMask,
    SequenceMIS,
    SequenceTIS,
    TokenMIS,
    Tokens,
    TokenTIS,
    TokenWeight,
)
from vlm_rl.objectives.covariance import token_uniforms

WEIGHTS = [
    TokenTIS(),
    SequenceTIS(2.0),
    TokenMIS(),
    SequenceMIS(),
    GeometricRejection(0.8, 1.2),
    K3Rejection(0.1),
    OffPolicyMask(0.05),
    ClipCov(0.1, 0.1, 3.0),
]
every_weight = pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: w.name)
UNIT = (1.0, -1.0, -1.0, 1.0)
TOKEN_FIELDS = ("logprobs", "old", "ref", "sampling", "entropy")


def weights_of(weight: TokenWeight, rows) -> list[list[float]]:
    batch = batch_of(rows)
    tokens = Tokens.of(stats_of(rows).logprobs, batch)
    values = weight(tokens, batch, weight.prepare(batch, lambda tensor: tensor))
    assert not values.requires_grad
    return [v[: len(row)].tolist() for row, v in zip(rows, values, strict=True)]


def test_every_token_weight_is_tested():
    assert set(discover_parts(TokenWeight)) == {type(weight) for weight in WEIGHTS}


# rho = exp(log pi_old - log pi_engine): 2.225541 = exp 0.8 at token (1, 1), 0.406570 = exp -0.9 at
# (2, 2), 1.221403 = exp 0.2 at (3, 3), else 1; these are also the products of the rows
@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (TokenTIS(2.0), [[2, 1], [1, 0.40657, 1, 1], [1, 1, 1.221403], [1]]),
        (TokenMIS(0.5, 2.0), [[0, 1], [1, 0, 1, 1], [1, 1, 1.221403], [1]]),
        (SequenceTIS(2.0), [[2] * 2, [0.40657] * 4, [1.221403] * 3, [1]]),
        (SequenceMIS(3.0), [[2.225541] * 2, [0.40657] * 4, [1.221403] * 3, [1]]),
        (SequenceMIS(2.0, 0.5), [[0] * 2, [0] * 4, [1.221403] * 3, [1]]),
        # exp of the means: exp 0.4 = 1.491825, exp -0.225 = 0.798516, exp 0.0667 = 1.068939, 1
        (GeometricRejection(0.9, 1.1), [[0] * 2, [0] * 4, [1] * 3, [1]]),
        # k3: (2.225541 - 1 - 0.8) / 2 = 0.212770, (0.40657 - 1 + 0.9) / 4 = 0.076642, 0.007134, 0
        (K3Rejection(0.1), [[0] * 2, [1] * 4, [1] * 3, [1]]),
        # mean log pi_old - log pi: -0.2, 0.025, 0.043333, 0.2; only for negative advantages
        (OffPolicyMask(0.03), [[1] * 2, [1] * 4, [0] * 3, [1]]),
    ],
    ids=lambda case: getattr(case, "name", None),
)
def test_weight_golden(weight, expected):
    for row, values in zip(weights_of(weight, fixture(UNIT)), expected, strict=True):
        assert row == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "loss", "gradient"),
    [
        # token losses as in GRPO's golden: the first -1.105171 x 2, then 1.284025 x 0.40657 and
        # 1.161834 x 1.221403: (-3.410342 / 2 + 3.378442 / 4 + 3.239068 / 3 - 0.818731) / 4
        # gradient of the tokens not cut off, over 4 L: -1.105171 x 2 / 8, 0.951229 / 16, ...
        (
            GRPO(token_weights=[TokenTIS(2.0)]),
            -0.149883,
            [
                [-0.276293, 0],
                [0.059452, 0.032628, 0, 0.069073],
                [0.085017, 0, 0.118256],
                [-0.204683],
            ],
        ),
        (
            GRPO(token_weights=[SequenceTIS(2.0)]),
            -0.372242,
            [
                [-0.276293, 0],
                [0.024171, 0.032628, 0, 0.028083],
                [0.10384, 0, 0.118256],
                [-0.204683],
            ],
        ),
        # LUSPO's golden: (-2.2 x 2 + 3.90124 x 0.40657 + 2.872776 x 1.221403 - 0.818731) / 4
        (
            LUSPO(0.1, 0.1, token_weights=[SequenceTIS(2.0)]),
            -0.030947,
            [[0, 0], [0.099133] * 4, [0.292401] * 3, [-0.204683]],
        ),
    ],
)
def test_weighted_loss_golden(objective, loss, gradient):
    result = evaluate(objective, fixture(UNIT))
    assert result.loss == pytest.approx(loss, abs=1e-6)
    for row, expected in zip(result.grad, gradient, strict=True):
        assert row == pytest.approx(expected, abs=1e-6)


class Probability(TokenWeight):
    """A weight that carries a gradient of its own."""

    name = "probability"

    def __call__(self, tokens, batch, scalars):
        return torch.exp(tokens.logprobs)


def test_gradient_in_a_weight_is_stopped():
    rows = random_rows(3)
    plain, weighted = evaluate(GRPO(), rows), evaluate(GRPO(token_weights=[Probability()]), rows)
    expected = [
        [slope * math.exp(new) for slope, new in zip(slopes, row.logprobs, strict=True)]
        for slopes, row in zip(plain.grad, rows, strict=True)
    ]
    assert_close(weighted.grad, expected)


@every_weight
def test_zero_advantage_gives_zero_gradient_under_any_weight(weight):
    rows = [replace(row, advantage=0.0) for row in random_rows(0)]
    result = evaluate(GRPO(token_weights=[weight]), rows)
    assert result.loss == 0
    assert all(value == 0 for row in result.grad for value in row)


def _expected(weight: TokenWeight, row) -> list[float]:
    log = [old - sampled for old, sampled in zip(row.old, row.sampling, strict=True)]
    product, count = math.exp(sum(log)), len(log)
    match weight:
        case TokenTIS():
            return [min(math.exp(value), weight.max_weight) for value in log]
        case SequenceTIS():
            return [min(product, weight.max_weight)] * count
        case TokenMIS():
            ratios = [math.exp(value) for value in log]
            return [r if weight.min_weight <= r <= weight.max_weight else 0 for r in ratios]
        case SequenceMIS():
            return [product if product <= weight.max_weight else 0.0] * count
        case GeometricRejection():
            mean = math.exp(sum(log) / count)
            return [float(weight.min_ratio <= mean <= weight.max_ratio)] * count
        case K3Rejection():
            return [float(sum(math.exp(v) - 1 - v for v in log) / count <= weight.max_kl)] * count
        case OffPolicyMask():
            shift = (sum(row.old) - sum(row.logprobs)) / count
            return [float(not (row.advantage < 0 and shift > weight.max_shift))] * count
    raise AssertionError(weight)


@pytest.mark.parametrize("weight", WEIGHTS[:-1], ids=lambda w: w.name)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weight_matches_loop(weight, seed):
    rows = random_rows(seed)
    for row, values in zip(rows, weights_of(weight, rows), strict=True):
        assert values == pytest.approx(_expected(weight, row) if len(row) else [], abs=1e-12)


@every_weight
@pytest.mark.parametrize("preset", [GRPO, LUSPO])
def test_weighted_objective_is_invariant(weight, preset):
    objective, rows = preset(token_weights=[weight]), random_rows(5)
    whole = evaluate(objective, rows)
    assert_same(evaluate(objective, rows, extra=3, fill=math.nan), whole)
    for cuts in ([4], [1, 2, 9], list(range(1, len(rows)))):
        parts = [rows[start:end] for start, end in pairwise([0, *cuts, len(rows)])]
        assert_same(evaluate_parts(objective, parts), whole)
    order = [3, 1, 0, 2, 7, 6, 5, 4, 11, 8, 10, 9]  # within the groups
    moved = [rows[index] for index in order]
    back = {index: place for place, index in enumerate(order)}
    renamed = evaluate(objective, moved)
    grad = [renamed.grad[back[index]] for index in range(len(rows))]
    assert_same(renamed._replace(grad=grad), whole)


@every_weight
def test_exact_engine_and_unmoved_policy_have_weight_one(weight):
    if isinstance(weight, ClipCov):
        return  # it leaves tokens out for another reason
    rows = [replace(row, sampling=row.old, logprobs=row.old) for row in random_rows(1)]
    assert all(value == 1 for row in weights_of(weight, rows) for value in row)


@every_weight
@pytest.mark.parametrize("apart", [-math.inf, -1e4, 1e4, math.inf])
def test_extreme_mismatch_is_finite(weight, apart):
    rows = [replace(row, sampling=[v - apart for v in row.old]) for row in random_rows(1)]
    result = evaluate(GRPO(token_weights=[weight]), rows)
    assert math.isfinite(result.loss)
    assert all(math.isfinite(value) for row in result.grad for value in row)


@pytest.mark.parametrize("apart", [-math.inf, -1e4, 1e4, math.inf])
@pytest.mark.parametrize("weight", [GeometricRejection(), K3Rejection(0.1), TokenMIS()])
def test_extreme_mismatch_is_rejected(weight, apart):
    rows = [replace(row, sampling=[v - apart for v in row.old]) for row in random_rows(1)]
    assert all(value == 0 for row in weights_of(weight, rows) for value in row)


def test_clip_cov_matches_loop():
    weight, rows = ClipCov(0.1, 0.1, 3.0), random_rows(2)
    values = [(row.advantage, old) for row in rows for old in row.old]
    mean_a = sum(a for a, _ in values) / len(values)
    mean_l = sum(old for _, old in values) / len(values)
    covariance = [[(row.advantage - mean_a) * (old - mean_l) for old in row.old] for row in rows]
    in_range = [[0.1 < value < 3.0 for value in row] for row in covariance]
    share = 0.1 * len(values) / sum(map(sum, in_range))
    assert share < 1, "the case must leave some tokens to chance"
    uniforms = token_uniforms(batch_of(rows))
    for row, inside, drawn, weights in zip(
        rows, in_range, uniforms, weights_of(weight, rows), strict=True
    ):
        kept = [not (i and u < share) for i, u in zip(inside, drawn[: len(row)], strict=True)]
        assert weights == [float(k) for k in kept]


def test_token_uniforms_are_uniform_and_differ():
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(random_rows(0))
    ids = torch.randint(0, 50, (len(batch), 10_000), generator=generator)
    fields = {"completion_mask": torch.ones_like(ids, dtype=torch.bool), "completion_ids": ids}
    zeros = torch.zeros(ids.shape, dtype=torch.float64)
    names = ("sampling_logprobs", "old_logprobs", "ref_logprobs", "advantages")
    batch = replace(batch, **fields, **dict.fromkeys(names, zeros))
    drawn = token_uniforms(batch)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.unique().numel() == drawn.numel()
    counts = torch.histc(drawn.flatten(), 20, 0, 1) / drawn.numel()
    assert (counts - 0.05).abs().max() < 0.003
    # pairs of neighbours are not correlated
    pairs = torch.stack([drawn[:, :-1].flatten(), drawn[:, 1:].flatten()])
    assert torch.corrcoef(pairs)[0, 1].abs() < 0.01


def test_token_uniforms_depend_on_problem_prefix_and_position():
    row = replace(random_rows(0)[0], **dict.fromkeys(TOKEN_FIELDS, [0.0] * 4))
    ids = [[7, 8, 7, 7], [7, 8, 9, 7], [8, 7, 7, 7]]
    rows = [replace(row, ids=each, prompt=owner) for owner in (0, 1) for each in ids]
    first, changed, swapped, other = token_uniforms(batch_of(rows))[:4].tolist()
    assert first[:2] == changed[:2]
    # a different token changes its draw and all after it; the order of the prefix counts
    distinct = [*first, *changed[2:], *swapped, *other]
    assert len(set(distinct)) == len(distinct)


def test_token_uniforms_are_drawn_anew_in_every_step():
    """The same prefix comes again in the next epoch, and must not always get the same draw."""
    batch = batch_of(random_rows(0))
    first, again, later = (token_uniforms(replace(batch, step=step)) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not (first == later).any()


def test_off_policy_mask_of_the_engine_counts_its_mismatch():
    """The shift from what the engine sampled with is that from pi_old less the mean mismatch."""
    rows = [replace(row, advantage=-1.0) for row in random_rows(1) if len(row)]
    kept = weights_of(OffPolicyMask(0.05, "engine"), rows)
    for row, weights in zip(rows, kept, strict=True):
        shift = sum(s - new for s, new in zip(row.sampling, row.logprobs, strict=True)) / len(row)
        assert weights == [float(not shift > 0.05)] * len(row)
    assert kept != weights_of(OffPolicyMask(0.05), rows), "the case must tell them apart"


def test_clip_cov_leaves_out_about_its_share():
    generator = torch.Generator().manual_seed(1)
    batch = batch_of(random_rows(0))
    ids = torch.randint(0, 50, (len(batch), 10_000), generator=generator)
    draw = torch.randn(ids.shape, generator=generator, dtype=torch.float64)
    other = torch.randn(ids.shape, generator=generator, dtype=torch.float64)
    batch = replace(
        batch,
        completion_mask=torch.ones_like(ids, dtype=torch.bool),
        completion_ids=ids,
        old_logprobs=3 * draw,
        sampling_logprobs=draw,
        ref_logprobs=draw,
        advantages=other,
    )
    weight = ClipCov(0.01)
    tokens = Tokens.of(batch.old_logprobs, batch)
    values = weight(tokens, batch, weight.prepare(batch, lambda tensor: tensor))
    assert (values == 0).double().mean() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: TokenTIS(0.5), "TokenTIS.max_weight must be >= 1, got 0.5"),
        (lambda: SequenceTIS(math.nan), "SequenceTIS.max_weight must be >= 1, got nan"),
        (lambda: TokenMIS(1.5, 2), "TokenMIS must hold 1, .* got 1.5 to 2"),
        (lambda: SequenceMIS(0.9), "SequenceMIS must hold 1"),
        (lambda: GeometricRejection(1.1, 1.2), "GeometricRejection must hold 1"),
        (lambda: K3Rejection(0.0), "K3Rejection.max_kl must be > 0, got 0.0"),
        (lambda: OffPolicyMask(-1), "OffPolicyMask.max_shift must be > 0, got -1"),
        (lambda: ClipCov(0.0), r"ClipCov.frac must be in \(0, 1\], got 0.0"),
        (lambda: ClipCov(low=5, high=1), "ClipCov needs low < high, got 5 and 1"),
        (lambda: GRPO(token_weights=[TokenTIS(), TokenTIS(3)]), "token_weights must differ"),
    ],
)
def test_weight_refuses(construct, message):
    with pytest.raises(ValueError, match=message) as refusal:
        construct()
    assert "\n" not in str(refusal.value)
