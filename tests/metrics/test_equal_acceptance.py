"""LRE of bands at equal E q, on sequences whose log-ratios are known.

Mutations, each seen red:
    the width not a quantile of sequences but of tokens -> share of ragged rows
    S / sqrt(L) without the root -> fairest form of each walk
    padding counted as kept -> ratio per token against a loop
"""

import math

import pytest
import torch
from torch import Tensor

from vlm_rl.metrics.equal_acceptance import FORMS, FairnessAtQ, at_equal_q

LENGTHS = (4, 16, 64, 256)
PER_LENGTH = 3000


def sequences(spread: float) -> tuple[Tensor, Tensor]:
    """Return log-ratios [B, T] whose sum has the deviation L ** spread, and their mask."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS).repeat_interleave(PER_LENGTH)
    mask = torch.arange(max(LENGTHS)) < lengths[:, None]
    sums = torch.randn(len(lengths), generator=generator).double() * lengths**spread
    return torch.where(mask, (sums / lengths)[:, None], 0.0), mask


def of_form(found: list[FairnessAtQ], form: str) -> FairnessAtQ:
    return next(one for one in found if one.form == form)


@pytest.mark.parametrize(
    ("spread", "fairest"), [(0.0, "sum"), (0.5, "sum / sqrt(L)"), (1.0, "mean of the sequence")]
)
def test_the_fairest_band_is_the_one_that_grows_as_log_ratios_do(spread, fairest):
    found = at_equal_q(*sequences(spread), [0.8])
    assert [one.form for one in found] == list(FORMS)
    assert [one.q for one in found] == pytest.approx([0.8] * 4, abs=1e-3)
    for one in found:
        if one.form == fairest:
            assert one.lre < 2 * one.floor
            # 80 % of a Gaussian are within 1.2816 deviations
            assert one.width == pytest.approx(1.2816, abs=0.04)
        elif one.form != "ratio per token":
            assert one.lre > 5 * one.floor


def test_lre_of_a_known_pair_of_lengths():
    """Sums of 0 and 10 tokens equally often: half of the short are kept, all of the long."""
    mask = torch.arange(4) < torch.tensor([1] * 4 + [4] * 4)[:, None]
    sums = torch.tensor([1.0, 1.0, 9.0, 9.0, 2.0, 2.0, 2.0, 2.0])
    log_ratios = torch.where(mask, (sums / mask.sum(-1))[:, None], 0.0)
    one = of_form(at_equal_q(log_ratios, mask, [0.75]), "sum")
    assert (one.q, one.width) == (0.75, 2.0)
    # q is 1/2 and 1, E q 3/4: 1/2 (1/2 |2/3 - 1| + 1/2 |4/3 - 1|) = 1/6
    assert one.lre == pytest.approx(1 / 6)
    assert one.floor == pytest.approx(math.sqrt(2 / math.pi) / 2 * math.sqrt(0.25 / (0.75 * 4)))


def test_ratio_per_token_keeps_a_share_of_each_sequence():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 30, (500,), generator=generator)
    mask = torch.arange(30) < lengths[:, None]
    log_ratios = torch.where(mask, torch.randn(500, 30, generator=generator), 0.0)
    one = of_form(at_equal_q(log_ratios, mask, [0.6]), "ratio per token")
    kept = [
        sum(abs(float(value)) <= one.width for value in row[:length]) / int(length)
        for row, length in zip(log_ratios.double(), lengths, strict=True)
    ]
    assert one.q == pytest.approx(sum(kept) / 500)
    assert one.q == pytest.approx(0.6, abs=2e-3)
