"""Gradients by length: goldens, the theorem's bound on random gradients, real runs.

Mutations, each seen red:
    LRE_w without the norms -> golden
    the factor 2 of rho left out, as the paper prints it -> opposite gradients
    the clipped mean not divided by its q -> a fair clip
    the clip left in the unclipped gradient -> run
"""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.run_helpers import command
from vlm_rl.fit import fit
from vlm_rl.metrics.length_gradients import GradientTally
from vlm_rl.run.metrics_csv import METRICS, read_metrics


def tally_of(
    counts: Sequence[int], q: Sequence[float], plain: torch.Tensor, clipped: torch.Tensor
) -> dict[str, float]:
    """Return the metrics of bins with these mean gradients, [K, n]."""
    tally = GradientTally()
    for count, share, mean, cut in zip(counts, q, plain, clipped, strict=True):
        tally.add(count, share, count * mean, count * cut)
    return tally.metrics()


def test_weighted_lre_golden() -> None:
    # mass 1/4, 1/4, 1/2; q 1, 0.8, 0.6 with mean 0.75; norms 1, 2, 1 with mean 1.25:
    # 1/2 (1/4 * 1/3 * 1 + 1/4 * 1/15 * 2 + 1/2 * 1/5 * 1) / 1.25 = 0.086667
    q = [1.0, 0.8, 0.6]
    plain = torch.diag(torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))
    found = tally_of([25, 25, 50], q, plain, torch.tensor(q).double()[:, None] * plain)
    assert found["length/lre_weighted"] == pytest.approx(0.26 / 3, abs=1e-12)
    assert found["length/lre_of_gradients"] == pytest.approx(0.1, abs=1e-12)
    assert found["length/q_of_gradients"] == pytest.approx(0.75, abs=1e-12)


def test_a_fair_clip_keeps_the_direction() -> None:
    plain = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = tally_of([10, 20, 30, 40], [0.7] * 4, plain, 0.7 * plain)
    assert found["length/update_cosine"] == pytest.approx(1)
    assert found["length/update_cosine_bound"] == pytest.approx(1)
    # as the sampling floor, whatever the norms, where all bins have the same count
    even = tally_of([25] * 4, [0.7] * 4, plain, 0.7 * plain)
    expected = math.sqrt(2 / math.pi) * math.sqrt(0.3 / (0.7 * 25)) / 2
    assert even["length/lre_weighted_floor"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(50))
def test_cosine_is_above_its_bound(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(12, dtype=torch.float64, generator=generator)
    plain = shared + 0.3 * torch.randn(5, 12, dtype=torch.float64, generator=generator)
    q = 0.7 + 0.3 * torch.rand(5, dtype=torch.float64, generator=generator)
    noise = torch.randn(5, 12, dtype=torch.float64, generator=generator)
    clipped = q[:, None] * (plain + 0.02 * noise)
    counts = torch.randint(5, 90, (5,), generator=generator).tolist()
    found = tally_of(counts, q.tolist(), plain, clipped)
    assert 0 < found["length/update_cosine_bound"] <= found["length/update_cosine"]


def test_opposite_gradients_show_that_the_papers_bound_lacks_a_factor_of_two() -> None:
    """Two lengths of equal mass, g = (1, 3) and (-1, 3), so that no length is turned, eta = 0."""
    plain = torch.tensor([[1.0, 3.0], [-1.0, 3.0]], dtype=torch.float64)
    q = torch.tensor([1.0, 0.5], dtype=torch.float64)
    found = tally_of([50, 50], q.tolist(), plain, q[:, None] * plain)
    # the sum is (0, 3), the clipped one (0.25, 2.25): |difference / 0.75| / 3 = 1 / 9
    # kappa is sqrt(10) / 3 and LRE_w is 1 / 6: 2 kappa LRE_w = 0.351, the bound 0.480
    rho = 2 * math.sqrt(10) / 3 / 6
    assert found["length/update_cosine_bound"] == pytest.approx((1 - rho) / (1 + rho))
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert tally_of([50, 50], [1.0, 0.5], opposite, q[:, None] * opposite).keys() == {
        f"length/{name}"
        for name in ("lre_weighted", "lre_weighted_floor", "lre_of_gradients", "q_of_gradients")
    }
    # nearly opposite: rho is |sum m (q_k - q) g_k| / (q |g|), twice what the paper allows
    nearly = torch.tensor([[1.0, 1e-3], [-1.0, 1e-3]], dtype=torch.float64)
    total, difference = nearly.mean(0), ((q - q.mean())[:, None] * nearly).mean(0)
    true = float(difference.norm() / q.mean() / total.norm())
    kappa = float(nearly.norm(dim=1).mean() / total.norm())
    assert true > 1.9 * kappa / 6
    assert true <= 2 * kappa / 6 * (1 + 1e-12)


def test_without_a_gradient_there_is_nothing() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert tally_of([3, 4], [1.0, 1.0], zeros, zeros) == {}
    assert tally_of([3, 4], [0.0, 0.0], zeros + 1, zeros) == {}
    assert GradientTally().metrics() == {}


BANDS = {"wide": (0.9, 50.0), "narrow": (1e-4, 1e-4)}


@pytest.mark.long
def test_run_logs_cosine_and_bound_every_so_many_steps_and_a_wide_band_turns_nothing(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    rows = {}
    for name, (low, high) in BANDS.items():
        settings = {
            "updates__num_minibatches": 2,
            "optimizer__lr": 1e-4,
            "length_gradients": 3,
            "objective__init_args__clip_low": low,
            "objective__init_args__clip_high": high,
        }
        fit(command(policy_folder, data_folder, tmp_path / name, **settings))
        written = read_metrics(tmp_path / name / METRICS)
        rows[name] = [row for row in written if "length/lre_weighted" in row]
        assert [row["step"] for row in rows[name]] == [3, 6]
    for row in rows["wide"]:
        assert row["length/q_of_gradients"] == 1
        assert row["length/lre_weighted"] == 0
        # float32 sums of a quarter of a million numbers
        assert row["length/update_cosine"] == pytest.approx(1, abs=1e-5)
        assert row["length/update_cosine_bound"] == pytest.approx(1, abs=1e-4)
    for row in rows["narrow"]:
        assert row["length/q_of_gradients"] < 1
        assert row["length/update_cosine_bound"] <= row["length/update_cosine"] < 0.9999
