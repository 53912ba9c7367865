"""Losses of whole groups: worked examples, loops, and what no split of a minibatch changes.

`test_invariances` and `test_objectives` have ConSPO and REAL too; here is what is their own, and
DMPO's distribution matching, which is a regularizer.

Mutations, each seen red:
    the scale N / P left out, or counted over one part -> loop, splits
    shares without their gradient -> loop
    the margin added to the wrong answers, or never moved -> goldens, course of the margin
    the mean over all answers of a group in place of the right ones -> loop of ConSPO
    the target from the sum of advantages; members not masked -> loop of DMPO
    a check of `soundness` left out -> refused
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.support.objective_cases import (
    ORACLES,
    Row,
    assert_close,
    assert_same,
    batch_of,
    build,
    evaluate,
    evaluate_parts,
    fixture,
    in_groups,
    numeric_gradient,
    random_rows,
    stats_of,
)
from tests.support.objective_oracles import groups_of
from vlm_rl.advantages import Centered
from vlm_rl.objectives import (
    GRPO,
    REAL,
    ConSPO,
    DistributionMatching,
    GroupContrast,
    Objective,
    OfGroups,
    SequenceMeanOfTokenMeans,
    SequenceMeanOfTokenSums,
    TokenMean,
    TokenRatio,
    TokenTIS,
)

UNIT = (1.0, -1.0, -1.0, 1.0)
MATCHING = {"coef": 0.7, "temperature": 0.4}


def matching() -> GRPO:
    return GRPO(regularizers=[DistributionMatching(**MATCHING)])


def matching_loop(rows: list[Row]) -> float:
    total = 0.0
    for group in groups_of(rows):
        policy = [math.exp(sum(row.logprobs) / len(row)) for row in group]
        target = [math.exp(row.advantage / 0.4) for row in group]
        for q, p in zip(policy, target, strict=True):
            total += (q / sum(policy) - p / sum(target)) ** 2 / len(group)
    return ORACLES["GRPO"].policy_term(rows) + 0.7 * total / len(groups_of(rows))


@pytest.mark.parametrize("seed", range(4))
def test_distribution_matching_matches_float64_loop(seed: int) -> None:
    rows = random_rows(seed)
    result = evaluate(matching(), rows)
    assert result.loss == pytest.approx(matching_loop([r for r in rows if len(r)]), rel=1e-12)
    assert_close(result.grad, numeric_gradient(matching_loop, rows), 1e-8)


@pytest.mark.parametrize("fill", [0.0, 1e30, math.nan, math.inf], ids=str)
def test_distribution_matching_is_padding_invariant(fill: float) -> None:
    rows = random_rows(0)
    assert_same(evaluate(matching(), rows, extra=5, fill=fill), evaluate(matching(), rows))


@pytest.mark.parametrize("cuts", [[4], [5, 7], [0, 3], list(range(1, 12))], ids=str)
def test_distribution_matching_is_the_same_on_any_split(cuts: list[int]) -> None:
    rows = random_rows(3)
    parts = [rows[start:end] for start, end in pairwise([0, *cuts, len(rows)])]
    assert_same(evaluate_parts(matching(), parts), evaluate(matching(), rows))


def test_distribution_matching_is_permutation_invariant() -> None:
    rows = random_rows(1)
    whole = evaluate(matching(), rows)
    order = [9, 11, 8, 10, 2, 0, 3, 1, 7, 6, 5, 4]
    moved = [replace(rows[old], prompt=new // 4) for new, old in enumerate(order)]
    expected = whole._replace(grad=[whole.grad[old] for old in order])
    assert_same(evaluate(matching(), moved), expected)


# On `fixture`: scores -0.8, -1.025, -1.043333, -1.2; the first and the fourth are right.
# ConSPO, temperature 0.5: -log of e^-1.6 / (e^-1.6 + e^-2.05 + e^-2.086667) = 0.811952 and, for
# e^-2.4, 1.331586; with margin 0.2 e^-2 and e^-2.8: 1.053689 and 1.640507. Their means.
# REAL: s = 0.2, -0.2 and -0.025, -0.043333; log(1 + e^-0.4 + e^0.4) = 1.151251 and, for the wrong
# ones, log(1 + e^-0.05 + e^-0.086667).
# DMPO, advantages +-1, temperature 1: q = 0.307423, 0.245482, 0.241023, 0.206072 and
# p = 0.440399, 0.059601, 0.059601, 0.440399; a quarter of the squared distance.
GOLDEN = {
    "conspo": (lambda: ConSPO(0.5, 0.0, 0.0, 1), 1.071769),
    "conspo, margin 0.2": (lambda: ConSPO(0.5, 0.2, 0.2, 1), 1.347098),
    "real": (REAL, 1.151251 + 1.053689),
    "dmpo": (
        lambda: Objective(
            TokenRatio(), _Nothing(), SequenceMeanOfTokenMeans(), [DistributionMatching(1.0, 1.0)]
        ),
        0.035014,
    ),
}


class _Nothing(OfGroups):
    """A policy term of 0."""

    def __init__(self) -> None:
        pass

    def __call__(self, log_ratio: Any, tokens: Any) -> Any:
        terms = torch.zeros(len(log_ratio), 2)
        return super().__call__(log_ratio, tokens._replace(group_terms=terms))


@pytest.mark.parametrize("name", GOLDEN)
def test_group_loss_golden(name: str) -> None:
    make, loss = GOLDEN[name]
    assert evaluate(make(), fixture(UNIT)).loss == pytest.approx(loss, abs=2e-6)


def test_margin_goes_in_a_line() -> None:
    contrast = GroupContrast(0.5, 0.2, 0.6, 100)
    assert [contrast.margin_at(step) for step in (0, 50, 100, 999)] == [0.2, 0.4, 0.6, 0.6]
    rows = fixture(UNIT)
    stats, batch = stats_of(rows), replace(batch_of(rows), step=100)
    moved = ConSPO(0.5, 0.2, 0.6, 100)
    (batch,) = in_groups(moved, [stats], [batch], batch)
    later = moved(stats, batch, {}).terms["policy"].sum() / 4
    assert later.item() == pytest.approx(evaluate(ConSPO(0.5, 0.6, 0.6, 1), rows).loss)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_groups_of_one_kind(sign: float) -> None:
    """ConSPO has nothing to compare; REAL still moves them; none gives NaN."""
    rows = [replace(row, advantage=sign) for row in fixture(UNIT)]
    alone = evaluate(ConSPO(0.5, 0.2, 0.2, 1), rows)
    assert alone.loss == 0
    assert not any(value for row in alone.grad for value in row)
    labels = evaluate(REAL(), rows)
    assert all(math.copysign(1, value) == -sign for row in labels.grad for value in row)
    equal = evaluate(matching(), rows)
    assert all(math.isfinite(value) for row in equal.grad for value in row)


def test_group_without_contrast_counts_among_the_groups() -> None:
    rows = fixture(UNIT)
    silent = [replace(row, advantage=1.0, prompt=1) for row in rows]
    objective = ConSPO(0.5, 0.2, 0.2, 1)
    both = evaluate(objective, [*rows, *silent]).loss
    assert both == pytest.approx(evaluate(objective, rows).loss / 2, rel=1e-12)


@pytest.mark.parametrize(
    "make", [lambda: ConSPO(0.01, 0.0, 1.0, 1), lambda: REAL(0.01), matching], ids=["c", "r", "m"]
)
def test_extreme_scores_are_finite(make: Callable[[], Objective]) -> None:
    rows = [
        replace(row, logprobs=[far * value for value in row.logprobs], prompt=number)
        for number, far in enumerate((1e-6, 1.0, 1e3, 1e6))
        for row in fixture((30.0, -30.0, 0.0, 1e-3))
    ]
    result = evaluate(make(), rows)
    assert math.isfinite(result.loss)
    assert all(math.isfinite(value) for row in result.grad for value in row)


def test_target_is_the_boltzmann_distribution_of_the_rewards() -> None:
    """A softmax does not see what is taken from all rewards of a group."""
    rewards = torch.tensor([[1.0, 0.3, 0.0, 0.8]], dtype=torch.float64)
    scored, lengths = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.int64)
    centered = Centered().of_rewards(rewards, scored, lengths)[0].tolist()
    for values in (centered, rewards[0].tolist()):
        rows = fixture(tuple(values))
        loss = evaluate(matching(), rows).loss - evaluate(GRPO(), rows).loss
        shares = [math.exp(reward / 0.4) for reward in rewards[0].tolist()]
        policy = [math.exp(sum(row.logprobs) / len(row)) for row in rows]
        pairs = zip(policy, shares, strict=True)
        apart = [(q / sum(policy) - p / sum(shares)) ** 2 for q, p in pairs]
        assert loss == pytest.approx(0.7 * sum(apart) / 4, rel=1e-9)


@pytest.mark.parametrize("name", ["ConSPO", "REAL"])
def test_steeper_where_right_and_wrong_are_close(name: str) -> None:
    """What the comparison is for: a pair that is already apart moves less."""
    objective = build({"ConSPO": ConSPO, "REAL": REAL}[name])
    near, far = fixture(UNIT)[:2], fixture(UNIT)[:2]
    far[0] = replace(far[0], logprobs=[0.0, 0.0])
    steep = [abs(evaluate(objective, rows).grad[0][0]) for rows in (near, far)]
    assert steep[0] > steep[1] > 0


def _two() -> Objective:
    return ConSPO(0.5, 0.0, 0.0, 1, regularizers=[DistributionMatching(1.0, 1.0)])


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: ConSPO(0.0, 0.0, 0.0, 1), "temperature must be positive and finite, got 0.0"),
        (lambda: ConSPO(0.5, 0.3, 0.2, 1), "0 <= margin_first <= margin_last"),
        (lambda: ConSPO(0.5, 0.0, 0.2, 0), "margin_steps >= 1, got 0.0, 0.2 and 0"),
        (lambda: REAL(math.nan), "got nan; the paper has 0.5"),
        (lambda: DistributionMatching(0.0, 1.0), "DistributionMatching.coef must be positive"),
        (lambda: DistributionMatching(1.0, -1.0), "DistributionMatching.temperature must be"),
        (
            lambda: REAL(token_weights=[TokenTIS()]),
            "TokenTIS would weigh tokens of GroupLabels, .*; leave the weight out",
        ),
        (
            lambda: Objective(TokenRatio(), REAL().surrogate, TokenMean()),
            "GroupLabels is a loss of .* TokenMean does not take; take SequenceMeanOfTokenMeans",
        ),
        (
            lambda: Objective(TokenRatio(), REAL().surrogate, SequenceMeanOfTokenSums()),
            "take SequenceMeanOfTokenMeans",
        ),
        (_two, "OfGroups and DistributionMatching are losses of whole groups, .*; keep one"),
    ],
)
def test_refused(construct: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        construct()
    assert "\n" not in str(refusal.value)
