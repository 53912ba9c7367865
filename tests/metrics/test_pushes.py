"""Pushes on mean length: loops in float64, the dynamics of a softmax, real runs, several ranks.

Mutations, each seen red:
    f = A for both kinds, or moments not centred -> formulas
    an empty or untrained completion pushes -> empty and left-out completions
    means over the whole batch for `by_problem` -> loop over groups
    0 instead of absent -> without signal
    the mean length of `push` over the rows of updates only -> own push
    the sign of `Sequences.push` turned -> own push
    ranks not gathered -> every rank
"""

import math
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.support.objective_cases import batch_of, fixture, stats_of
from tests.support.run_helpers import command
from vlm_rl.fit import fit
from vlm_rl.metrics.push_course import LENGTH, PUSHES, Correlation, changes, course_of
from vlm_rl.metrics.pushes import (
    push_metrics,
    push_of_updates,
    scaled_push,
    scaled_push_by_problem,
    sequence_mean_pushes,
    sequence_sum_pushes,
)
from vlm_rl.objectives import FSPO, GRPO, GSPO, LUSPO, RLOOIS, DrGRPO
from vlm_rl.run.metrics_csv import METRICS, read_metrics


def mean(values):
    return math.fsum(values) / len(values)


def covariance(xs, ys):
    return mean([(x - mean(xs)) * (y - mean(ys)) for x, y in zip(xs, ys, strict=True)])


def drawn(seed, groups=5, size=4, least=1):
    """Draw lengths and centred advantages [P][G]; the last group has no signal."""
    rng = random.Random(seed)
    lengths = [[rng.randint(least, 60) for _ in range(size)] for _ in range(groups)]
    raw = [[rng.gauss(0, 1) for _ in range(size)] for _ in range(groups - 1)]
    advantages = [[a - mean(row) for a in row] for row in raw] + [[0.0] * size]
    return lengths, advantages


def measured(lengths, advantages, trained=None):
    lengths, advantages = torch.tensor(lengths), torch.tensor(advantages, dtype=torch.float64)
    trained = torch.ones_like(lengths, dtype=torch.bool) if trained is None else trained
    return push_metrics(lengths, advantages, trained, [])


@pytest.mark.parametrize("seed", range(4))
def test_pushes_match_the_formulas_of_the_theory(seed):
    lengths, advantages = drawn(seed)
    flat = [n for row in lengths for n in row]
    sums = [a for row in advantages for a in row]
    means = [a / n for a, n in zip(sums, flat, strict=True)]
    of_sums = mean([a * n for a, n in zip(sums, flat, strict=True)])
    of_means = -mean(flat) * mean(means)
    found = measured(lengths, advantages)
    scale = covariance(flat, flat) ** 0.5
    assert found["length/push_sum"] == pytest.approx(
        of_sums / scale / covariance(sums, sums) ** 0.5, abs=1e-12
    )
    assert found["length/push_mean"] == pytest.approx(
        of_means / scale / covariance(means, means) ** 0.5, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(4))
def test_pushes_by_problem_match_a_loop_over_groups(seed):
    lengths, advantages = drawn(seed)
    found = measured(lengths, advantages)
    for name, divides in (("sum", False), ("mean", True)):
        both = of_lengths = of_pushes = 0.0
        for row, own in zip(lengths, advantages, strict=True):
            pushes = [a / n if divides else a for a, n in zip(own, row, strict=True)]
            both += covariance(row, pushes)
            of_lengths += covariance(row, row)
            of_pushes += covariance(pushes, pushes)
        expected = both / (of_lengths * of_pushes) ** 0.5
        assert found[f"length/push_{name}_by_problem"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [sequence_sum_pushes, sequence_mean_pushes])
def test_a_softmax_under_the_natural_gradient_moves_its_mean_length_by_the_push(kind):
    lengths, advantages = (torch.tensor(rows).double().flatten() for rows in drawn(7))
    trained = torch.ones_like(lengths, dtype=torch.bool)
    if kind is sequence_sum_pushes:
        pushes = kind(advantages, trained)
    else:
        pushes = kind(lengths, advantages, trained)
    moved, divergence, eta = [], [], 1e-4
    for step in (eta, -eta):  # both ways, so that the error is of second order
        push = step * (pushes - pushes.mean())
        moved.append(float((torch.softmax(push, 0) * lengths).sum()))
        divergence.append(float(torch.log1p(torch.expm1(push).mean())))
    change = (moved[0] - moved[1]) / 2
    expected = change / float(lengths.std(correction=0)) / math.sqrt(2 * mean(divergence))
    assert scaled_push(lengths, pushes) == pytest.approx(expected, abs=1e-7)


def test_empty_and_left_out_completions_push_nothing_and_have_a_length():
    lengths = torch.tensor([[0, 10, 20, 30]])
    advantages = torch.tensor([[3.0, -1.0, -1.0, -1.0]])
    trained = torch.tensor([[False, True, True, False]])
    found = push_metrics(lengths, advantages, trained, [])
    for name, pushes in {"sum": [0, -1, -1, 0], "mean": [0, -1 / 10, -1 / 20, 0]}.items():
        flat = [0, 10, 20, 30]
        expected = covariance(flat, pushes)
        expected /= (covariance(flat, flat) * covariance(pushes, pushes)) ** 0.5
        assert found[f"length/push_{name}"] == pytest.approx(expected, abs=1e-12)
    # an empty completion that claims to be trained has no token either
    everyone = torch.ones_like(trained)
    assert float(sequence_mean_pushes(lengths, advantages, everyone)[0, 0]) == 0


@pytest.mark.parametrize(
    ("lengths", "advantages"),
    [([[3, 9], [4, 4]], [[0.0, 0.0], [0.0, 0.0]]), ([[7, 7, 7]], [[0.3, -0.1, -0.2]])],
    ids=["no signal", "one length"],
)
def test_without_signal_or_choice_a_push_is_absent(lengths, advantages):
    assert measured(lengths, advantages) == {}


def test_groups_of_one_length_have_no_push_by_problem():
    found = measured([[5, 5], [9, 9]], [[1.0, -1.0], [1.0, -1.0]])
    assert found.keys() == {"length/push_sum", "length/push_mean"}
    assert found["length/push_sum"] == pytest.approx(0, abs=1e-15)
    lengths = torch.tensor([[5, 5], [9, 9]])
    assert scaled_push_by_problem(lengths, torch.tensor([[1.0, -1.0], [1.0, -1.0]])) is None


OWN = [(LUSPO, {}), (FSPO, {"clip_low_log": 0.1, "clip_high_log": 0.1, "dual_clip_log": 1.0}),
       (RLOOIS, {"clip_low": 0.2, "clip_high": 0.2}), (DrGRPO, {"constant_tokens": 8}),
       (GRPO, {}), (GSPO, {})]  # fmt: skip


@pytest.mark.parametrize(("cls", "arguments"), OWN, ids=[cls.__name__ for cls, _ in OWN])
def test_own_push_at_ratio_one_is_that_of_its_kind(cls, arguments):
    objective, rows = cls(**arguments), fixture((1.0, -1.5, -0.5, 1.0))
    batch, stats = batch_of(rows), stats_of(rows)
    stats = stats._replace(logprobs=batch.old_logprobs.clone().requires_grad_())
    done = objective(stats, batch, objective.prepare(batch, lambda t: t)).sequences
    # a fifth completion is in no update: it pushes nothing, and has a length
    lengths = torch.cat([done.length, torch.tensor([9])])
    advantages = torch.tensor([1.0, -1.5, -0.5, 1.0, 5.0])
    trained = torch.tensor([True] * 4 + [False])
    if cls in (GRPO, GSPO):
        pushes = sequence_mean_pushes(lengths, advantages, trained)
    else:
        pushes = sequence_sum_pushes(advantages, trained)
    found = push_of_updates(lengths[None], [done])
    assert found == pytest.approx(scaled_push(lengths, pushes), abs=1e-12)


def test_run_logs_pushes_and_its_own_is_that_of_a_sum(
    policy_folder: Path, data_folder: Path, tmp_path: Path
):
    fit(command(policy_folder, data_folder, tmp_path / "run", updates__num_minibatches=1))
    rows = [row for row in read_metrics(tmp_path / "run" / METRICS) if "length/push" in row]
    assert rows
    for row in rows:  # LUSPO; the advantages of the loss are float32
        assert row["length/push"] == pytest.approx(row["length/push_sum"], abs=1e-6)
        assert {f"length/push_{kind}_by_problem" for kind in ("sum", "mean")} <= row.keys()


def _rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/r", rank=rank, world_size=2)
    lengths, advantages = (torch.tensor(rows) for rows in drawn(3))
    own = slice(0, 5) if rank else slice(0, 0)  # a rank may have no group
    trained = torch.ones_like(lengths[own], dtype=torch.bool)
    torch.save(push_metrics(lengths[own], advantages[own], trained, []), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_every_rank_has_the_pushes_of_all(tmp_path: Path):
    mp.spawn(_rank, (tmp_path,), nprocs=2)
    lengths, advantages = (torch.tensor(rows) for rows in drawn(3))
    trained = torch.ones_like(lengths, dtype=torch.bool)
    whole = push_metrics(lengths, advantages, trained, [])
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(whole, abs=1e-12)


def test_course_pairs_a_block_with_the_change_to_the_next():
    course = [
        course_of({LENGTH: length} | dict.fromkeys(PUSHES, push))
        for length, push in [(10, 0.1), (12, 0.3), (15, -0.1), (17, -0.3), (9, 0), (11, 0), (99, 9)]
    ]
    points = changes(course, "length/push", block_steps=2)
    assert points == [pytest.approx((0.2, 5)), pytest.approx((-0.2, -6))]
    assert course_of({LENGTH: 5.0})["length/push"] == 0


def test_correlation_golden():
    # r = 0.8; z = atanh 0.8 = 1.098612, +- 1.959964 / sqrt(5 - 3) = 1.385904
    found = Correlation.of([(1, 1), (2, 3), (3, 2), (4, 5), (5, 4)])
    assert found.r == pytest.approx(0.8)
    assert found.low == pytest.approx(math.tanh(1.0986123 - 1.3859038), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(1.0986123 + 1.3859038), abs=1e-6)
    assert Correlation.of([(1, 1), (2, 3), (3, 2)]) is None
    assert Correlation.of([(1, 1), (1, 3), (1, 2), (1, 0)]) is None
