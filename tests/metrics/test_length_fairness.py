"""Length fairness: goldens by hand, loops, windows, resumed runs, reports and plots.

Mutations, each seen red:
    all bins with the same weight -> LRE golden
    the half left out of LRE or of its floor -> goldens
    the first of several updates kept -> acceptance leaves out the update at ratio 1
    edges that separate equal lengths -> equal lengths share a bin
    sequences without an advantage counted as accepted -> accepted is over sequences that learn
"""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.objective_cases import batch_of, fixture, stats_of
from tests.support.run_helpers import command, trainer_checkpoint
from vlm_rl.fit import fit
from vlm_rl.metrics.length import (
    LengthWindow,
    equal_mass_edges,
    length_rate_error,
    report_of,
    sampling_floor,
)
from vlm_rl.metrics.push_course import LENGTH, PUSHES
from vlm_rl.objectives import GSPO, LUSPO, Sequences
from vlm_rl.records import Completion, Rollout, Scores, Verdict
from vlm_rl.run.length_report import PLOT, REPORTS, LengthFairness, plot_length_fairness
from vlm_rl.run.metrics_csv import METRICS, read_metrics


def sequences(lengths: list[int], inside: list[float], weight: list[float] | None = None):
    """Return sequences that are accepted if inside, and clipped only at the lower end."""
    share = torch.tensor(inside, dtype=torch.float64)
    none = torch.zeros_like(share)
    weights = torch.tensor(weight or [1.0] * len(lengths), dtype=torch.float64)
    return Sequences(torch.tensor(lengths), share, share, 1 - share, none, none, weights, weights)


def rollout(lengths: list[int]) -> Rollout:
    """Return one group; its first completion is correct, its last is truncated."""
    ends = ["stop"] * (len(lengths) - 1) + ["length"]
    group = [
        Completion(torch.zeros(n, dtype=torch.int64), torch.zeros(n), end, "")
        for n, end in zip(lengths, ends, strict=True)
    ]
    verdicts = [[Verdict.CORRECT] + [Verdict.WRONG] * (len(lengths) - 1)]
    zeros = torch.zeros(1, len(lengths), dtype=torch.float64)
    return Rollout((), [group], Scores({}, zeros, verdicts, {}))


def test_length_rate_error_golden():
    # mass 1/4, 1/4, 1/2 and q 1, 0.8, 0.6: mean 0.25 + 0.2 + 0.3 = 0.75; 1/2 (0.25 * 1/3
    # + 0.25 * 1/15 + 0.5 * 1/5) = 0.1; with bins of equal weight it would be 0.0833
    q = torch.tensor([1.0, 0.8, 0.6], dtype=torch.float64)
    assert length_rate_error(q, torch.tensor([25, 25, 50])) == pytest.approx(0.1, abs=1e-12)
    assert length_rate_error(torch.ones(3), torch.tensor([1, 2, 3])) == 0
    assert length_rate_error(torch.zeros(3), torch.tensor([1, 2, 3])) is None
    with_empty = torch.tensor([1.0, 0.8, math.nan, 0.6], dtype=torch.float64)
    assert length_rate_error(with_empty, torch.tensor([25, 25, 0, 50])) == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "floor"), [(30, 0.02428), (100, 0.0133), (1000, 0.00421)])
def test_sampling_floor_golden(count, floor):
    # 1/2 sqrt(2/pi) sqrt((1 - q) / (q n)) at q = 0.9
    actual = sampling_floor(torch.full((4,), 0.9), torch.full((4,), count))
    assert actual == pytest.approx(floor, abs=5e-6)


def test_fair_band_shows_about_the_sampling_floor():
    generator = torch.Generator().manual_seed(0)
    counts = torch.full((10,), 100)
    draws = torch.rand(2000, 10, 100, generator=generator) < 0.8
    errors = [length_rate_error(q, counts) for q in draws.double().mean(-1)]
    floor = sampling_floor(torch.full((10,), 0.8), counts)
    assert sum(errors) / len(errors) == pytest.approx(floor, rel=0.06)


def test_bins_hold_about_equally_many():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100_000, (5000,), generator=generator)
    edges = equal_mass_edges(lengths, 10)
    counts = torch.bincount(torch.bucketize(lengths, edges))
    assert len(edges) == 10
    assert counts.min() > 490
    assert counts.sum() == 5000


def test_equal_lengths_share_a_bin():
    lengths = torch.tensor([5] * 60 + [6] * 10 + [20] * 30)
    assert equal_mass_edges(lengths, 10).tolist() == [5, 6, 20]
    report = report_of(sequences(lengths.tolist(), [1.0] * 60 + [0.5] * 40), None)
    assert [(b.least, b.most, b.num_sequences) for b in report.bins] == [
        (5, 5, 60),
        (6, 6, 10),
        (20, 20, 30),
    ]
    assert [b.inside for b in report.bins] == [1.0, 0.5, 0.5]
    # q = 0.8: 1/2 (0.6 * 0.25 + 0.4 * 0.375)
    assert report.lre_inside == pytest.approx(0.15)


def test_accepted_is_over_sequences_that_learn():
    judged = sequences([3, 3, 9, 9], [1.0, 0.0, 1.0, 0.0], [math.nan, 2.0, 4.0, 0.0])
    short, long = report_of(judged, None).bins
    assert (short.inside, short.accepted, short.num_learning, short.weight) == (0.5, 0.0, 1, 2.0)
    assert (long.inside, long.accepted, long.num_learning, long.weight) == (0.5, 0.5, 2, 2.0)
    assert short.weight_first is None
    assert short.clipped_low == 1.0


def test_acceptance_leaves_out_the_update_at_ratio_one():
    first = sequences([4, 8], [1.0, 1.0], [0.25, 0.125])
    later = sequences([4, 8], [0.5, 0.0], [0.1, 0.0])
    window = LengthWindow()
    window.add([first, later], rollout([4, 8]))
    report = window.report()
    assert [b.inside for b in report.bins] == [0.5, 0.0]
    assert [b.weight_first for b in report.bins] == [0.25, 0.125]
    assert [b.weight for b in report.bins] == [0.1, 0.0]
    alone = LengthWindow()
    alone.add([first], rollout([4, 8]))
    assert alone.report().lre_inside == 0
    assert LengthWindow().report() is None


def test_window_forgets_old_steps_and_resumes():
    window = LengthWindow(window_steps=2)
    for step in range(1, 4):
        part = sequences([step, 10 * step], [1.0, 1 / step])
        window.add([part, part], rollout([step, 10 * step]))
    assert [b.least for b in window.report().bins] == [2, 3, 20, 30]
    assert {kind: part.tolist() for kind, part in window.lengths().items()} == {
        "correct": [2, 3],
        "wrong": [20, 30],
        "truncated": [20, 30],
    }
    again = LengthWindow(window_steps=2)
    again.load_state_dict(window.state_dict())
    assert again.report() == window.report()
    assert torch.equal(again.lengths()["wrong"], window.lengths()["wrong"])


def test_empty_completions_are_not_sequences():
    window = LengthWindow()
    window.add([sequences([0, 5], [0.0, 1.0])], rollout([0, 5]))
    assert [b.num_sequences for b in window.report().bins] == [1]


def _weights(objective, log_ratios_at_zero: bool) -> Tensor:
    rows = fixture((1.0, -1.0, -1.0, 1.0))
    batch, stats = batch_of(rows), stats_of(rows)
    if log_ratios_at_zero:
        stats = stats._replace(logprobs=batch.old_logprobs.clone().requires_grad_())
    plan = objective.prepare(batch, lambda tensor: tensor)
    return objective(stats, batch, plan).sequences.weight


def test_gradient_weight_is_one_over_length_for_gspo_and_one_for_luspo():
    assert _weights(GSPO(), True).tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 3, 1])
    assert _weights(LUSPO(), True).tolist() == pytest.approx([1, 1, 1, 1])
    # with ratios 1.221403, 0.975310, 0.957592, 0.818731 and bands of 0.1 the first is cut off
    expected = [0, 0.975310, 0.957592, 0.818731]
    assert _weights(LUSPO(0.1, 0.1), False).tolist() == pytest.approx(expected, abs=1e-6)


def test_plot_is_drawn(tmp_path: Path):
    window = LengthWindow()
    for step in range(3):
        part = sequences([5, 6, 20, 30 + step], [1.0, 0.5, 0.2, 0.1])
        window.add([part, part], rollout([5, 6, 20, 30 + step]))
    course = [
        {LENGTH: 10.0 + step % 7, **dict.fromkeys(PUSHES, 0.01 * (step % 5))} for step in range(40)
    ]
    plot_length_fairness(window.report(), window.lengths(), course, tmp_path / "a" / PLOT)
    assert (tmp_path / "a" / PLOT).stat().st_size > 20_000


def test_run_reports_length_fairness_at_every_validation(
    policy_folder: Path, data_folder: Path, tmp_path: Path
):
    run_dir = tmp_path / "run"
    settings = {"updates__num_minibatches": 2, "optimizer__lr": 1e-6}
    fit(command(policy_folder, data_folder, run_dir, **settings))
    reports = json.loads((run_dir / REPORTS).read_text())
    assert [report["step"] for report in reports] == [3, 6]
    rows = [row for row in read_metrics(run_dir / METRICS) if "length/lre_inside" in row]
    assert [row["step"] for row in rows] == [3, 6]
    assert rows[1]["length/lre_inside"] == reports[1]["lre_inside"]
    assert sum(part["num_sequences"] for part in reports[1]["bins"]) == 6 * 4
    for step in (3, 6):
        assert (run_dir / "plots" / f"step_{step}" / PLOT).exists()
    state = trainer_checkpoint(run_dir, 6)["callbacks"][LengthFairness.__qualname__]
    assert state["reports"] == reports
    assert len(state["course"]) == 6
