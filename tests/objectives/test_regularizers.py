"""Regularizers: loops, goldens, state and invariances.

Mutations, each seen red:
    the entropy bonus with the other sign -> loop
    the band's side read from the other end -> loop of the band
    the weight N / N_task left out -> loop of the band, invariances
    the threshold of KL-Cov one token too low -> loop
    the entropy detached, in a term or in the objective -> gradient in the entropy
    a bound left out of k3 or of the ratio of CorrectedKL -> extreme divergence
    the coefficient moved the wrong way, or not restored -> adaptive coefficient
"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.support.objective_cases import (
    Row,
    assert_close,
    assert_same,
    batch_of,
    discover_parts,
    evaluate,
    evaluate_parts,
    numeric_gradient,
    random_rows,
    stats_of,
)
from vlm_rl.objectives import (
    GRPO,
    KL,
    LUSPO,
    AdaptiveKL,
    CorrectedKL,
    DistributionMatching,
    EntropyBand,
    EntropyBonus,
    KLCov,
    LoadBalance,
    Objective,
    Regularizer,
)
from vlm_rl.records import Batch

REGULARIZERS = [
    KL(0.1),
    CorrectedKL(0.1),
    AdaptiveKL(0.1, target=0.05),
    EntropyBonus(0.01),
    EntropyBand(0.3, 0.2, 0.6, entropy="sampled"),
    EntropyBand(0.3, 0.2, 0.6),
    KLCov(1.0, 0.2),
]
every_regularizer = pytest.mark.parametrize(
    "regularizer", REGULARIZERS, ids=lambda r: type(r).__name__
)


def term(regularizer: Regularizer, rows: list[Row]) -> float:
    """Return the regularizer's term of GRPO's loss."""
    with_it = evaluate(GRPO(regularizers=[regularizer]), rows).loss
    return with_it - evaluate(GRPO(), rows).loss


def test_every_regularizer_is_tested():
    """Those of the routers of a policy need one: `test_load_balance.py`; that of groups needs their
    terms: `test_group_losses.py`."""
    elsewhere = {LoadBalance, DistributionMatching}
    assert LoadBalance.needs_routing
    assert set(discover_parts(Regularizer)) == {type(r) for r in REGULARIZERS} | elsewhere


@every_regularizer
@pytest.mark.parametrize("preset", [GRPO, LUSPO])
def test_regularized_objective_is_invariant(regularizer, preset):
    objective, rows = preset(regularizers=[regularizer]), random_rows(5)
    whole = evaluate(objective, rows)
    assert_same(evaluate(objective, rows, extra=3, fill=math.nan), whole)
    for cuts in ([4], [1, 2, 9], list(range(1, len(rows)))):
        parts = [rows[start:end] for start, end in pairwise([0, *cuts, len(rows)])]
        assert_same(evaluate_parts(objective, parts), whole)
    order = [3, 1, 0, 2, 7, 6, 5, 4, 11, 8, 10, 9]  # within the groups
    back = {index: place for place, index in enumerate(order)}
    moved = evaluate(objective, [rows[index] for index in order])
    assert_same(moved._replace(grad=[moved.grad[back[index]] for index in range(len(rows))]), whole)


def test_entropy_bonus_matches_loop():
    rows = random_rows(0)
    full = [row for row in rows if len(row)]
    expected = -0.01 * sum(sum(row.entropy) / len(row) for row in full) / len(full)
    assert term(EntropyBonus(0.01), rows) == pytest.approx(expected, abs=1e-12)


def test_corrected_kl_matches_loop_and_its_gradient_is_the_reverse_kl():
    rows = [row for row in random_rows(3) if len(row)]

    def loss(chosen: list[Row]) -> float:
        total = 0.0
        for row in chosen:
            terms = zip(row.logprobs, row.old, row.ref, strict=True)
            values = [
                math.exp(new - old) * (math.exp(ref - new) - (ref - new) - 1)
                for new, old, ref in terms
            ]
            total += 0.1 * sum(values) / len(row)
        return total / len(chosen)

    assert term(CorrectedKL(0.1), rows) == pytest.approx(loss(rows), abs=1e-12)
    with_it = evaluate(GRPO(regularizers=[CorrectedKL(0.1)]), rows).grad
    without = evaluate(GRPO(), rows).grad
    own = [
        [a - b for a, b in zip(x, y, strict=True)] for x, y in zip(with_it, without, strict=True)
    ]
    assert_close(own, numeric_gradient(loss, rows), 1e-8)
    # at pi = pi_old: d/dlogpi of r (exp(-d) + d - 1) is d, as of KL(pi || pi_ref)
    still = [replace(row, logprobs=row.old) for row in rows]
    with_kl = evaluate(GRPO(regularizers=[CorrectedKL(1.0)]), still).grad
    plain = evaluate(GRPO(), still).grad
    for row, a, b in zip(still, with_kl, plain, strict=True):
        expected = [(o - r) / len(row) / len(still) for o, r in zip(row.old, row.ref, strict=True)]
        assert [x - y for x, y in zip(a, b, strict=True)] == pytest.approx(expected, abs=1e-12)


def _in_tasks(rows: list[Row], tasks: dict[int, str]) -> Batch:
    batch = batch_of(rows)
    prompts = tuple(
        replace(prompt, problem=replace(prompt.problem, task=tasks[int(prompt.uid)]))
        for prompt in batch.prompts
    )
    return replace(batch, prompts=prompts)


@pytest.mark.parametrize("entropy", ["sampled", "full"])
def test_entropy_band_matches_loop(entropy):
    rows = random_rows(4)
    tasks = {0: "chart", 1: "other", 2: "chart"}
    batch, stats = _in_tasks(rows, tasks), stats_of(rows)
    band = EntropyBand(0.3, 0.2, 0.9, tasks={"chart": [1.5, 2.0]}, entropy=entropy)
    objective = Objective(GRPO().ratio, GRPO().surrogate, GRPO().aggregation, [band])
    plan = objective.prepare(batch, lambda tensor: tensor)
    loss = objective(stats, batch, plan)
    actual = loss.terms["entropy_band"].sum() / objective.normalizers(batch)["entropy_band"]
    expected = 0.0
    for task, low, high in (("chart", 1.5, 2.0), ("other", 0.2, 0.9)):
        own = [row for row in rows if tasks[row.prompt] == task]
        sampled = [-value for row in own for value in row.old]
        before = sum(sampled) / len(sampled)
        values = [
            value
            for row in own
            for value in (row.entropy if entropy == "full" else [-v for v in row.logprobs])
        ]
        now = sum(values) / len(values)
        assert before < low or before > high, "the case must be outside the band"
        expected += 0.3 * (now - high if before > high else low - now)
    assert actual.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("regularizer", "slope"),
    [
        # all -log pi_old are 2, above the band: +0.3 per token over all tokens
        (EntropyBand(0.3, 0.2, 0.6), lambda length, rows: 0.3 / sum(map(len, rows))),
        (EntropyBonus(0.01), lambda length, rows: -0.01 / length / len(rows)),
    ],
    ids=["band", "bonus"],
)
def test_entropy_terms_have_their_gradient_in_the_entropy(regularizer, slope):
    rows = [replace(row, old=[-2.0] * len(row)) for row in random_rows(3) if len(row)]
    stats, batch = stats_of(rows), batch_of(rows)
    assert stats.entropy is not None
    stats = stats._replace(entropy=stats.entropy.requires_grad_())
    objective = GRPO(regularizers=[regularizer])
    plan = objective.prepare(batch, lambda tensor: tensor)
    own = objective(stats, batch, plan).terms[regularizer.name]
    loss = own.sum() / objective.normalizers(batch)[regularizer.name]
    (gradient,) = torch.autograd.grad(loss, stats.entropy)
    for row, values in zip(rows, gradient, strict=True):
        assert values[: len(row)].tolist() == pytest.approx([slope(len(row), rows)] * len(row))


@pytest.mark.parametrize("regularizer", [r for r in REGULARIZERS if r.name[:7] != "entropy"])
def test_terms_without_entropy_ask_for_no_gradient_of_it(regularizer):
    """The head's backward computes it as soon as a loss depends on it, be it times 0."""
    stats, batch = stats_of(random_rows(3)), batch_of(random_rows(3))
    assert stats.entropy is not None
    entropy = stats.entropy.requires_grad_()
    objective = GRPO(regularizers=[regularizer])
    loss = objective(stats, batch, objective.prepare(batch, lambda tensor: tensor))
    total = torch.stack([sums.sum() for sums in loss.terms.values()]).sum()
    assert torch.autograd.grad(total, entropy, allow_unused=True) == (None,)


@every_regularizer
@pytest.mark.parametrize("field", ["old", "ref"])
@pytest.mark.parametrize("apart", [-1e4, 1e4])
def test_extreme_divergence_is_finite(regularizer, field, apart):
    rows = [replace(r, **{field: [v + apart for v in r.logprobs]}) for r in random_rows(1)]
    result = evaluate(GRPO(regularizers=[regularizer]), rows)
    assert math.isfinite(result.loss)
    assert all(math.isfinite(value) for row in result.grad for value in row)


def test_entropy_band_is_silent_inside():
    rows = [replace(row, old=[-0.4] * len(row)) for row in random_rows(1)]
    assert term(EntropyBand(0.3, 0.2, 0.6, entropy="sampled"), rows) == 0


@pytest.mark.parametrize("frac", [0.05, 0.2, 1.0])
def test_kl_cov_matches_loop(frac):
    rows = random_rows(2)
    tokens = [(row, t) for row in rows for t in range(len(row))]
    mean_a = sum(row.advantage for row, _ in tokens) / len(tokens)
    mean_l = sum(row.old[t] for row, t in tokens) / len(tokens)
    tokens.sort(
        key=lambda token: -(token[0].advantage - mean_a) * (token[0].old[token[1]] - mean_l)
    )
    chosen = {(id(row), t) for row, t in tokens[: math.ceil(frac * len(tokens))]}
    full = [row for row in rows if len(row)]
    expected = sum(
        abs(row.logprobs[t] - row.old[t]) / len(row) / len(full)
        for row, t in tokens
        if (id(row), t) in chosen
    )
    assert term(KLCov(1.0, frac), rows) == pytest.approx(expected, abs=1e-12)


def test_adaptive_coefficient_follows_the_divergence_and_is_restored():
    # 0.1 (1 + 0.1 x 0.2) at three times the target, then (1 - 0.1 x 0.1) at 0.9 of it
    regularizer = AdaptiveKL(0.1, target=0.05)
    objective = GRPO(regularizers=[regularizer])
    objective.observe({"policy/kl": 0.15, "policy/old_kl": 0.0})
    assert regularizer.coef == pytest.approx(0.102)
    objective.observe({"policy/kl": 0.045, "policy/old_kl": 0.0})
    assert regularizer.coef == pytest.approx(0.102 * 0.99)
    again = GRPO(regularizers=[AdaptiveKL(0.1, target=0.05)])
    again.load_state_dict(objective.state_dict())
    assert again.state_dict() == {"kl": {"kl_coef": regularizer.coef}}
    assert again.observes
    assert not GRPO(regularizers=[KL(0.1)]).observes


def test_k1_as_a_loss_warns():
    with pytest.warns(UserWarning, match="k1 as a loss has a gradient of mean zero; take k2 or k3"):
        KL(0.1, "k1")


@every_regularizer
def test_batch_without_tokens_gives_no_regularization(regularizer):
    names = ("logprobs", "old", "ref", "sampling", "entropy", "ids")
    rows = [replace(row, **{name: [] for name in names}) for row in random_rows(0)[:3]]
    objective = GRPO(regularizers=[regularizer])
    stats, batch = stats_of(rows, 2, math.nan), batch_of(rows, 2, math.nan)
    loss = objective(stats, batch, objective.prepare(batch, lambda tensor: tensor))
    assert all(term.tolist() == [0, 0, 0] for term in loss.terms.values())


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: EntropyBonus(0.0), "entropy_coef must be > 0, got 0.0"),
        (lambda: EntropyBand(-1.0), "EntropyBand.coef must be > 0, got -1.0"),
        (lambda: EntropyBand(1.0, 0.6, 0.2), r"needs 0 <= min < max in nats, got \[0.6, 0.2\]"),
        (
            lambda: EntropyBand(1.0, tasks={"a": [1.0]}),
            r"needs 0 <= min < max in nats, got \[1.0\]",
        ),
        (lambda: KLCov(coef=0), "KLCov.coef must be > 0, got 0"),
        (lambda: KLCov(frac=1.5), r"KLCov.frac must be in \(0, 1\], got 1.5"),
        (lambda: AdaptiveKL(0.1, target=0.0), "AdaptiveKL.target must be > 0, got 0.0"),
        (lambda: AdaptiveKL(0.1, target=1.0, rate=9.0), "AdaptiveKL.rate must be in"),
        (lambda: CorrectedKL(0.0), "kl_coef must be > 0, got 0.0"),
    ],
)
def test_regularizer_refuses(construct, message):
    with pytest.raises(ValueError, match=message) as refusal:
        construct()
    assert "\n" not in str(refusal.value)
