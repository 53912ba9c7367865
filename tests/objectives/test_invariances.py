"""Invariances of the loss, gradient and statistics of every objective in the package.

Mutations, each seen red:
    masked_sum by product instead of `where`, or a mean over the width -> padding
    Dr.GRPO divided by the padded width, log-ratios averaged over it -> padding, ranks
    advantages or statistics not cleared in the padding -> padding
    rows counted with `len` -> empty rows, batch without tokens
    `clamp(min=1)` left out -> empty rows, batch without tokens
    a term divided by the count of its own rows -> micro-batch, ranks
    statistics counted with the padding -> padding, ranks, empty rows
    row means over the width; a row's weight that depends on other rows -> sequences
"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.multiprocessing as mp

from tests.support.objective_cases import (
    SPLIT_DEPENDENT,
    Evaluated,
    about,
    assert_same,
    batch_of,
    build,
    discover,
    divided,
    evaluate,
    evaluate_parts,
    grad_of,
    in_groups,
    plain,
    random_rows,
    run_process,
    sequences_of,
    stats_of,
    weight_gradients,
)
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives import KL, SequenceMeanOfTokenSums, Sequences, TokenMean

every_objective = pytest.mark.parametrize("cls", discover(), ids=lambda cls: cls.__name__)
every_invariant_objective = pytest.mark.parametrize(
    "cls",
    [cls for cls in discover() if cls.__name__ not in SPLIT_DEPENDENT],
    ids=lambda cls: cls.__name__,
)
EMPTY = {name: [] for name in ("logprobs", "old", "ref", "sampling", "entropy", "ids")}


@every_objective
@pytest.mark.parametrize("fill", [0.0, 1e30, math.nan, math.inf, -math.inf], ids=str)
def test_objective_is_padding_invariant(cls, fill):
    objective, rows = build(cls, regularizers=[KL(0.1)]), random_rows(0)
    assert_same(evaluate(objective, rows, extra=7, fill=fill), evaluate(objective, rows))


@every_objective
@pytest.mark.parametrize("regularizers", [[], [KL(0.1)]], ids=["alone", "with KL"])
def test_forward_without_rows_adds_nothing_and_has_a_graph(cls, regularizers):
    """Ranks run such forwards to keep in step with others; a backward must pass through them."""
    objective, whole = build(cls, regularizers=regularizers), batch_of(random_rows(0))
    empty = whole.select(torch.zeros(0, dtype=torch.int64))
    logprobs = torch.zeros_like(empty.old_logprobs, requires_grad=True)
    plan = objective.prepare(whole, lambda tensor: tensor)
    stats = TokenStats(logprobs, logprobs.detach())
    (empty,) = in_groups(objective, [stats], [empty], empty)
    loss = objective(stats, empty, plan)
    value = torch.stack([sums.sum() for sums in loss.terms.values()]).sum()
    value.backward()
    assert value.item() == 0
    assert logprobs.grad is not None
    assert all(float(count) == 0 for count in objective.normalizers(empty).values())
    assert all(float(s.sum) == float(s.count) == 0 for s in loss.statistics.values())
    assert not len(loss.sequences.length)


@every_objective
def test_objective_is_permutation_invariant(cls):
    objective, rows = build(cls, regularizers=[KL(0.1)]), random_rows(1)
    whole = evaluate(objective, rows)
    order = [9, 11, 8, 10, 2, 0, 3, 1, 7, 6, 5, 4]  # of the groups, and of the rows in them
    moved = [replace(rows[old], prompt=new // 4) for new, old in enumerate(order)]
    expected = whole._replace(grad=[whole.grad[old] for old in order])
    assert_same(evaluate(objective, moved), expected)


@every_invariant_objective
@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_objective_is_micro_batch_invariant(cls, size):
    objective, rows = build(cls, regularizers=[KL(0.1, "k3", TokenMean())]), random_rows(2)
    stats, batch = stats_of(rows), batch_of(rows)
    parts = torch.arange(len(rows)).split(size)
    loss, statistics = divided(
        objective,
        [TokenStats(stats.logprobs[part], stats.entropy[part]) for part in parts],
        [batch.select(part) for part in parts],
        batch,
    )
    loss.backward()
    grad = grad_of(rows, stats.logprobs)
    assert_same(Evaluated(loss.item(), grad, statistics), evaluate(objective, rows))


@every_invariant_objective
@pytest.mark.parametrize("cuts", [[4], [5, 7], [0, 3]], ids=str)
def test_objective_is_invariant_to_the_number_of_ranks(cls, cuts):
    objective, rows = build(cls, regularizers=[KL(0.1)]), random_rows(3)
    parts = [rows[start:end] for start, end in pairwise([0, *cuts, len(rows)])]
    assert_same(evaluate_parts(objective, parts), evaluate(objective, rows))


def assert_same_sequences(actual: Sequences, expected: Sequences) -> None:
    for name, values in actual._asdict().items():
        wanted = getattr(expected, name)
        assert not values.requires_grad
        torch.testing.assert_close(values, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)


@every_objective
@pytest.mark.parametrize("fill", [0.0, 1e30, math.nan], ids=str)
def test_sequences_are_padding_invariant(cls, fill):
    objective, rows = build(cls), random_rows(0)
    padded = sequences_of(objective, [rows], extra=7, fill=fill)
    assert_same_sequences(padded, sequences_of(objective, [rows]))


@every_objective
def test_sequences_are_permutation_invariant(cls):
    objective, rows = build(cls), random_rows(1)
    order = [9, 11, 8, 10, 2, 0, 3, 1, 7, 6, 5, 4]
    moved = [replace(rows[old], prompt=new // 4) for new, old in enumerate(order)]
    expected = Sequences(*(values[order] for values in sequences_of(objective, [rows])))
    assert_same_sequences(sequences_of(objective, [moved]), expected)


@every_invariant_objective
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sequences_are_micro_batch_invariant(cls, size):
    objective, rows = build(cls), random_rows(2)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    assert_same_sequences(sequences_of(objective, parts), sequences_of(objective, [rows]))


def test_gradient_over_gloo_ranks_equals_one_rank(tmp_path):
    rows = random_rows(4)
    silent = [replace(row, **EMPTY) for row in rows[8:]]  # a rank without a token takes part too
    splits = [[rows[:8], rows[8:]], [rows[:4], rows[4:8], silent]]
    mp.spawn(run_process, (splits, tmp_path), nprocs=3)
    for parts in splits:
        whole = weight_gradients([row for part in parts for row in part], lambda tensor: None)
        for rank in range(len(parts)):
            results = torch.load(tmp_path / f"{rank}_of_{len(parts)}.pt")
            assert results.keys() == whole.keys()
            for name, (gradient, statistics) in results.items():
                torch.testing.assert_close(gradient, whole[name][0], rtol=1e-12, atol=1e-12)
                assert statistics == about(whole[name][1])


@every_objective
def test_empty_rows_are_not_counted(cls):
    objective, rows = build(cls, regularizers=[KL(0.1)]), random_rows(6)
    result = evaluate(objective, rows)
    kept = [index for index, row in enumerate(rows) if len(row)]
    assert len(kept) == 10
    alone = evaluate(objective, [rows[index] for index in kept])
    assert_same(result._replace(grad=[result.grad[index] for index in kept]), alone)
    sequences = SequenceMeanOfTokenSums().count(batch_of(rows).completion_mask)
    assert int(sequences) == 10


@every_objective
def test_batch_without_tokens_gives_zero_sums(cls):
    rows = [replace(row, **EMPTY) for row in random_rows(0)[:3]]
    objective = build(cls, regularizers=[KL(0.1)])
    stats, batch = stats_of(rows, 2, math.nan), batch_of(rows, 2, math.nan)
    (batch,) = in_groups(objective, [stats], [batch], batch)
    loss = objective(stats, batch, objective.prepare(batch, lambda tensor: tensor))
    sum(term.sum() for term in loss.terms.values()).backward()
    assert all(term.tolist() == [0, 0, 0] for term in loss.terms.values())
    assert not stats.logprobs.grad.any()
    assert all(int(count) == 0 for count in objective.normalizers(batch).values())
    assert all(statistic == (0, 0) for statistic in plain(loss.statistics).values())
